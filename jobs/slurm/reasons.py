"""Why a job is pending, in words. The reasons are those of job_state_reason.c, 22.05 to 25.05, and squeue(1)."""

import re
from functools import lru_cache

REASON_WORDS = {
    "": "waits for the scheduler to look at it",
    "Priority": "behind jobs of higher priority",
    "Resources": "waits for GPUs or nodes",
    "Dependency": "waits for the job before it",
    "DependencyNeverSatisfied": "never: the job before it did not end well",
    "BeginTime": "waits for its earliest start time",
    "Cleaning": "its last run is still being cleaned up",
    "Prolog": "its nodes are being prepared",
    "JobArrayTaskLimit": "limit on tasks of its array that run at once",
    "JobHeldUser": "held by the user",
    "JobHeldAdmin": "held by an administrator",
    "JobHoldMaxRequeue": "never: requeued too often, and held (scontrol release lets it go on)",
    "launch failed requeued held": "never: could not be started on its node, and held (scontrol release lets it go on)",
    "JobLaunchFailure": "could not be started on its node",
    "Licenses": "waits for a licence",
    "Reservation": "waits for its reservation",
    "ReservationDeleted": "never: its reservation was deleted",
    "ReservationInvalid": "never: its reservation is not valid",
    "ReqNodeNotAvail": "a node that it needs is down or reserved",
    "NodeDown": "a node that it needs is down",
    "FrontEndDown": "no front end is up",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "never, as things are: more nodes than the partition allows or has up",
    "PartitionTimeLimit": "never: time limit above the partition's",
    "PartitionConfig": "never, as things are: the partition's limits do not allow it",
    "BadConstraints": "never: no node is as it asks for",
    "Constraints": "never: no node is as it asks for",
    "MaxMemPerLimit": "never: more memory than a node or CPU may give",
    "AccountingPolicy": "never, as things are: a rule of the accounting forbids it",
    "AccountNotAllowed": "never: the partition does not take its account",
    "InvalidAccount": "never: its account is not valid",
    "InvalidQOS": "never: its QOS is not valid",
    "QOSNotAllowed": "never: its account or partition does not take its QOS",
    "QOSUsageThreshold": "the QOS's threshold of usage is passed",
    "QOSJobLimit": "QOS limit on jobs",
    "QOSResourceLimit": "QOS limit on resources",
    "QOSTimeLimit": "QOS limit on time",
    "AssociationJobLimit": "account's limit on jobs",
    "AssociationResourceLimit": "account's limit on resources",
    "AssociationTimeLimit": "account's limit on time",
    "BurstBufferResources": "waits for a burst buffer",
    "BurstBufferStageIn": "its data are being staged in",
    "BurstBufferOperation": "never: its burst buffer failed",
    "PowerNotAvail": "not enough power",
    "PowerReserved": "the power is reserved",
    "FedJobLock": "waits for the federation's clusters to agree",
    "SchedDefer": "waits for the scheduler to look at it",
    "SystemFailure": "Slurm had an internal failure",
    "InactiveLimit": "was inactive for too long",
    "NonZeroExitCode": "ended with a code other than zero",
    "RaisedSignal": "ended by a signal",
    "TimeLimit": "ran into its time limit",
    "OutOfMemory": "ran out of memory",
    "DeadLine": "its deadline has passed",
    "Nodes required for job are DOWN": "nodes that it needs are down, drained or reserved for jobs of higher priority",
}
"""Reasons that are no limits of a family."""

LIMIT = re.compile(
    r"(?P<owner>QOS|Assoc|)(?P<scope>Grp|Max|Min)(?P<what>Submit(?=Job)|WallDuration|[A-Z][a-z]+?|[A-Z]+?|[A-Z]+[a-z]+)"
    r"(?:Job(?=Per|Limit)|Jobs)?(?P<time>RunMinutes|Minutes)?"
    r"(?:Per(?P<per>Job|Node|User|Account))?(?:Limit)?(?:NotSatisfied)?"
)
"""Families such as QOSMaxGRESPerUser, AssocGrpCPUMinutesLimit, MaxJobsPerAccount."""

RESOURCES = {
    "Cpu": "CPUs",
    "CPU": "CPUs",
    "GRES": "GPUs",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "Jobs": "running jobs",
    "Job": "running jobs",
    "Submit": "submitted jobs",
    "Wall": "wall-clock time",
    "WallDuration": "wall-clock time",
    "License": "licences",
    "BB": "burst buffers",
    "Energy": "energy",
    "Billing": "billing units",
    "Unknown": "some resource",
}
MINUTES = {"CPUs": "CPU-minutes", "GPUs": "GPU-minutes", "nodes": "node-minutes"}
SCOPES = {"Job": " of one job", "Node": " on one node", "User": " of one user", "Account": " of one account"}


@lru_cache(4096)
def in_words(reason: str, dependency: str = "") -> str:
    """Why it waits. An unknown reason is shown as it is; details that Slurm adds to one are kept."""
    head, rest = _parted(reason)
    words = _known(head) or reason.replace("_", " ")
    if head in {"Dependency", "DependencyNeverSatisfied"} and dependency:
        return f"{words} ({_jobs_of(dependency)})"
    return f"{words} ({rest})" if rest and head == "ReqNodeNotAvail" else words


@lru_cache(1024)
def hopeless(reason: str) -> bool:
    """Whether it would wait for ever unless a person changes the job, a limit or the partition."""
    head, _ = _parted(reason)
    return _known(head).startswith("never")


def _parted(reason: str) -> tuple[str, str]:
    """`ReqNodeNotAvail, UnavailableNodes:n1` as its name and the rest. Slurm writes sentences with underscores."""
    plain = "" if reason == "None" else reason.strip("()").replace("_", " ")
    head, _, rest = plain.partition(",")
    return head.strip(), rest.strip()


def _known(head: str) -> str:
    """The words of a known reason; empty for another."""
    if head not in REASON_WORDS and head.endswith(" requeued held"):  # as JobHoldMaxRequeue, for some other failure
        return f"never: {head.removesuffix(' requeued held')}, and held (scontrol release lets it go on)"
    return REASON_WORDS.get(head) or _limit_in_words(head)


def _limit_in_words(reason: str) -> str:
    match = LIMIT.fullmatch(reason)
    if match is None or match["what"] not in RESOURCES:
        return ""
    who = "account's" if match["owner"] == "Assoc" else "QOS"
    what = RESOURCES[match["what"]]
    if match["time"]:
        what = MINUTES.get(what, f"{what} times minutes")
    if match["scope"] == "Min":
        return f"never: less than the {who} minimum of {what}"
    if match["scope"] == "Grp":
        return f"{who} limit on {what} for all its jobs together"
    of_one_job = match["per"] in {"Job", "Node"} or match["what"] == "WallDuration"
    return f"{'never: ' if of_one_job else ''}{who} limit on {what}{SCOPES.get(match['per'] or '', '')}"


def _jobs_of(dependency: str) -> str:
    """The first jobs that a dependency such as `afterok:12_*(unfulfilled),afterok:13(failed)` names."""
    names = re.findall(r":(\d+(?:_(?:\d+|\*))?)", dependency)
    shown = ", ".join(name.removesuffix("_*") for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or dependency
