"""Slurm's words for states, and what an execution's last row means (job_state_codes, squeue(1), sacct(1))."""

import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from jobs.observation import ClusterState
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.failures import POLICIES, NodeEvidence, classify_slurm_state
from jobs.slurm.parsing import MEMORY_OF_PARSED, AccountRow, QueueRow

QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {
    *("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"),
    *("POWER_UP_NODE", "EXPEDITING", "LAUNCHING"),
}
"""Holds nodes, or processes of it may still be alive."""
SURELY_OVER = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"}
MAY_RUN_AGAIN = {"PREEMPTED", "REQUEUED", "NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""This execution is over; the job may be in the queue again, now or in a moment."""
OVER = SURELY_OVER | MAY_RUN_AGAIN - QUEUED
"""In squeue's rows, where REQUEUED means that the job waits."""

STATE_WORDS = {
    "REQUEUED": "requeued",
    "REQUEUE_FED": "requeued",
    "REQUEUE_HOLD": "requeued and held (scontrol release lets it go on)",
    "SPECIAL_EXIT": "requeued and held after a special exit code (scontrol release lets it go on)",
    "RESV_DEL_HOLD": "held, as its reservation was deleted",
    "SUSPENDED": "suspended",
    "STOPPED": "stopped by a signal",
    "COMPLETING": "ending",
    "CONFIGURING": "its nodes are being prepared",
}

MESSAGES = {
    "COMPLETED": "ended with code 0",
    "TIMEOUT": "ran into its time limit",
    "DEADLINE": "its deadline has passed",
    "PREEMPTED": "preempted",
    "REQUEUED": "requeued",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure at boot",
    "REVOKED": "revoked by the federation",
}
STUCK_REASON = "DependencyNeverSatisfied"


def classify_queue_row(row: QueueRow) -> ClusterState | None:
    """What squeue's row says of the job; None: it is over, and only not forgotten yet."""
    if row.state in QUEUED:
        stuck = row.reason == STUCK_REASON or ("(failed)" in row.dependency and "?" not in row.dependency)
        stuck = stuck or is_held_by_slurm(row.reason)
        return ClusterState.STUCK if stuck else ClusterState.QUEUED
    if row.state in RUNNING:
        return ClusterState.RUNNING
    return None if row.state in OVER else ClusterState.UNKNOWN


@lru_cache(MEMORY_OF_PARSED)
def is_held_by_slurm(reason: str) -> bool:
    """Whether Slurm itself holds the job, after it could not start it; what a person holds is theirs."""
    plain = reason.strip("() ").replace("_", " ")
    return plain.endswith(" requeued held") or plain.startswith("JobHoldMaxRequeue")


def is_cancelled_in_queue(row: QueueRow) -> bool:
    """Whether a person took it out before it started; Slurm itself does so to a job that can never start."""
    return row.state == "CANCELLED" and not row.nodes and row.reason != STUCK_REASON


def is_over(row: AccountRow) -> bool:
    """Whether this execution has ended, which its job may not have."""
    return row.ended_at > 0 and row.state in SURELY_OVER | MAY_RUN_AGAIN


def build_accounting_record(row: AccountRow, key: str, *, withdrawn: bool = False) -> AccountingRecord:
    """Of a finished row. `withdrawn`: we took the job out ourselves, so a cancellation is not the user's."""
    uid = int(row.by_uid) if row.by_uid.isdigit() else None
    ran = bool(row.nodes)  # sacct gives a cancelled job that never ran its end as its start
    return AccountingRecord(
        id=row.id,
        batch=row.name,
        key=key,
        state=row.state,
        failure=classify_slurm_state(row.state, cancelled_by_uid=uid, withdrawn=withdrawn),
        cancelled_by_uid=uid,
        submitted_at=row.submitted_at,
        started_at=row.started_at if ran else 0.0,
        ended_at=row.ended_at,
        elapsed_seconds=row.elapsed_seconds,
        gpus=row.gpus,
        cpus=row.cpus if ran else 0,
        nodes=row.nodes,
        failed_node=row.failed_node,
        exit_code=row.exit_code,
        signal=row.signal,
        message=describe_end(row),
        gpu_kinds=row.gpu_kinds,
    )


def build_remembered_record(row: QueueRow, key: str) -> AccountingRecord:
    """Of a job that somebody cancelled and that left no row in the accounting, as the controller remembers it."""
    ran = bool(row.nodes)
    return AccountingRecord(
        id=row.id,
        batch=row.name,
        key=key,
        state=row.state,
        failure=classify_slurm_state(row.state, by_person=True),
        submitted_at=row.submitted_at,
        started_at=row.started_at if ran else 0.0,
        ended_at=row.ends_at,
        elapsed_seconds=max(0, int(row.ends_at - row.started_at)) if ran else 0,
        nodes=row.nodes,
        message="cancelled with scancel",
        remembered=True,
    )


def describe_end(row: AccountRow) -> str:
    """One line for people on how an execution ended."""
    if row.state == "CANCELLED":
        # Why: docs/decisions.md, D35
        if row.by_uid:
            return f"cancelled by uid {row.by_uid}"
        return "cancelled by Slurm: the job before it did not end well"
    if row.state == "FAILED":
        if row.signal:
            return f"ended by signal {row.signal}"
        return f"ended with code {row.exit_code}"
    where = row.failed_node or row.nodes
    said = MESSAGES.get(row.state, row.state)
    failure = classify_slurm_state(row.state)
    blames_node = failure is not None and POLICIES[failure].node is NodeEvidence.FAULT
    return f"{said} ({where})" if where and blames_node else said


# Why a job is pending, in words. The reasons are those of job_state_reason.c, 22.05 to 26.05, and squeue(1).


class Outlook(StrEnum):
    """Whether a pending job will start by itself."""

    WAITS = ""
    NEVER = "never"
    """Only a change of the job could help."""
    NEVER_AS_THINGS_ARE = "never, as things are"
    """A change of a limit or of the partition could help too."""


class PendingReason(NamedTuple):
    """What a reason means."""

    words: str
    outlook: Outlook = Outlook.WAITS

    def __str__(self) -> str:
        return f"{self.outlook}: {self.words}" if self.outlook else self.words


NEVER, NEVER_AS_THINGS_ARE = Outlook.NEVER, Outlook.NEVER_AS_THINGS_ARE
RELEASE = "(scontrol release lets it go on)"
REASONS = {
    "": PendingReason("waits for the scheduler to consider it"),
    "Priority": PendingReason("behind jobs of higher priority"),
    "Resources": PendingReason("waits for GPUs or nodes"),
    "Dependency": PendingReason("waits for the job before it"),
    "DependencyNeverSatisfied": PendingReason("the job before it did not end well", NEVER),
    "BeginTime": PendingReason("waits for its earliest start time"),
    "Cleaning": PendingReason("its last run is still being cleaned up"),
    "Prolog": PendingReason("its nodes are being prepared"),
    "JobArrayTaskLimit": PendingReason("limit on tasks of its array that run at once"),
    "JobHeldUser": PendingReason("held by the user"),
    "JobHeldAdmin": PendingReason("held by an administrator"),
    "JobHoldMaxRequeue": PendingReason(f"requeued too often, and held {RELEASE}", NEVER),
    "launch failed requeued held": PendingReason(f"could not be started on its node, and held {RELEASE}", NEVER),
    "JobLaunchFailure": PendingReason("could not be started on its node"),
    "Licenses": PendingReason("waits for a licence"),
    "MaxPoweredUpNodes": PendingReason("as many nodes are powered up as may be at once"),
    "MpiPortsBusy": PendingReason("waits for free MPI ports"),
    "NvidiaImexChannels": PendingReason("waits for a free channel between GPUs of several nodes (NVIDIA IMEX)"),
    "Reservation": PendingReason("waits for its reservation"),
    "ReservationDeleted": PendingReason("its reservation was deleted", NEVER),
    "ReservationInvalid": PendingReason("its reservation is not valid", NEVER),
    "ReqNodeNotAvail": PendingReason("a node that it needs is down or reserved"),
    "NodeDown": PendingReason("a node that it needs is down"),
    "FrontEndDown": PendingReason("no front end is up"),
    "PartitionDown": PendingReason("the partition is down"),
    "PartitionInactive": PendingReason("the partition is inactive"),
    "PartitionNodeLimit": PendingReason("more nodes than the partition allows or has up", NEVER_AS_THINGS_ARE),
    "PartitionTimeLimit": PendingReason("time limit above the partition's", NEVER),
    "PartitionConfig": PendingReason("the partition's limits do not allow it", NEVER_AS_THINGS_ARE),
    "BadConstraints": PendingReason("no node is as it asks for", NEVER),
    "Constraints": PendingReason("no node is as it asks for", NEVER),
    "MaxMemPerLimit": PendingReason("more memory than a node or CPU may give", NEVER),
    "AccountingPolicy": PendingReason("a rule of the accounting forbids it", NEVER_AS_THINGS_ARE),
    "AccountNotAllowed": PendingReason("the partition does not take its account", NEVER),
    "InvalidAccount": PendingReason("its account is not valid", NEVER),
    "InvalidQOS": PendingReason("its QOS is not valid", NEVER),
    "QOSNotAllowed": PendingReason("its account or partition does not take its QOS", NEVER),
    "QOSUsageThreshold": PendingReason("the QOS's threshold of usage is passed"),
    "QOSJobLimit": PendingReason("QOS limit on jobs"),
    "QOSResourceLimit": PendingReason("QOS limit on resources"),
    "QOSTimeLimit": PendingReason("QOS limit on time"),
    "AssociationJobLimit": PendingReason("account's limit on jobs"),
    "AssociationResourceLimit": PendingReason("account's limit on resources"),
    "AssociationTimeLimit": PendingReason("account's limit on time"),
    "BurstBufferResources": PendingReason("waits for a burst buffer"),
    "BurstBufferStageIn": PendingReason("its data are being staged in"),
    "BurstBufferOperation": PendingReason("its burst buffer failed", NEVER),
    "PowerNotAvail": PendingReason("not enough power"),
    "PowerReserved": PendingReason("the power is reserved"),
    "FedJobLock": PendingReason("waits for the federation's clusters to agree"),
    "SchedDefer": PendingReason("waits for the scheduler to consider it"),
    "SystemFailure": PendingReason("Slurm had an internal failure"),
    "InactiveLimit": PendingReason("was inactive for too long"),
    "NonZeroExitCode": PendingReason("ended with a code other than zero"),
    "RaisedSignal": PendingReason("ended by a signal"),
    "TimeLimit": PendingReason("ran into its time limit"),
    "OutOfMemory": PendingReason("ran out of memory"),
    "DeadLine": PendingReason("its deadline has passed"),
    "Nodes required for job are DOWN": PendingReason(
        "nodes that it needs are down, drained or reserved for jobs of higher priority"
    ),
}
"""All but the families of limits below."""

LIMIT = re.compile(
    r"(?P<owner>QOS|Assoc|)(?P<scope>Grp|Max|Min)(?P<what>Submit(?=Job)|WallDuration|[A-Z][a-z]+?|[A-Z]+?|[A-Z]+[a-z]+)"
    r"(?:Job(?=Per|Limit)|Jobs)?(?P<time>RunMinutes|RunMins|Minutes)?"
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
def explain_reason(reason: str) -> str:
    """Why it waits. An unknown reason is shown as it is; details that Slurm adds to one are kept."""
    head, rest = _split_reason(reason)
    known = _find_reason(head)
    words = str(known) if known else reason.replace("_", " ")
    return f"{words} ({rest})" if rest and head == "ReqNodeNotAvail" else words


@lru_cache(1024)
def is_hopeless(reason: str) -> bool:
    """Whether it would wait for ever unless a person changes the job, a limit or the partition."""
    head, _ = _split_reason(reason)
    known = _find_reason(head)
    return known is not None and known.outlook is not Outlook.WAITS


@lru_cache(MEMORY_OF_PARSED)
def _split_reason(reason: str) -> tuple[str, str]:
    """`ReqNodeNotAvail, UnavailableNodes:n1` as its name and the rest. Slurm writes sentences with underscores."""
    plain = "" if reason == "None" else reason.strip("()").replace("_", " ")
    head, _, rest = plain.partition(",")
    return head.strip(), rest.strip()


def _find_reason(head: str) -> PendingReason | None:
    if head in REASONS:
        return REASONS[head]
    if head.endswith(" requeued held"):  # as JobHoldMaxRequeue, for some other failure
        return PendingReason(f"{head.removesuffix(' requeued held')}, and held {RELEASE}", NEVER)
    return _find_limit(head)


def _find_limit(reason: str) -> PendingReason | None:
    """The meaning of a name such as QOSMaxGRESPerUser; None for one that is no limit."""
    match = LIMIT.fullmatch(reason)
    if match is None or match["what"] not in RESOURCES:
        return None
    who = "account's" if match["owner"] == "Assoc" else "QOS"
    what = RESOURCES[match["what"]]
    if match["time"]:
        what = MINUTES.get(what, f"{what} times minutes")
    if match["scope"] == "Min":
        return PendingReason(f"less than the {who} minimum of {what}", NEVER)
    if match["scope"] == "Grp":
        return PendingReason(f"{who} limit on {what} for all its jobs together")
    of_one_job = match["per"] in {"Job", "Node"} or match["what"] == "WallDuration"
    words = f"{who} limit on {what}{SCOPES.get(match['per'] or '', '')}"
    return PendingReason(words, NEVER if of_one_job else Outlook.WAITS)


@lru_cache(MEMORY_OF_PARSED)
def list_awaited_jobs(reason: str, dependency: str) -> str:
    """The first jobs that a dependency such as `afterok:12_*(unfulfilled),afterok:13(failed)` names.

    Empty if the job waits for something else.
    """
    if _split_reason(reason)[0] not in {"Dependency", "DependencyNeverSatisfied"}:
        return ""
    names = re.findall(r":(\d+(?:_(?:\d+|\*))?)", dependency)
    shown = ", ".join(name.removesuffix("_*") for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or dependency
