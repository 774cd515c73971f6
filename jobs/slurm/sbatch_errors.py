"""What became of an sbatch call: sent, surely refused, or unknown (texts of slurm_errno.c and sbatch.c)."""

import re
from dataclasses import dataclass
from enum import StrEnum

from jobs.reconcile.failures import format_one_line
from jobs.slurm.commands import ProgramOutput, strip_error_prefix


class RefusalKind(StrEnum):
    """What can be done about it."""

    LIMIT = "limit"
    """So many jobs of yours are in the queue already: fewer, or later."""
    FULL = "full"
    """The cluster takes no jobs at present: later."""
    DELAYED = "delayed"
    """What this request names (partition, nodes, reservation) takes no jobs at present. Others may be taken."""
    INVALID = "invalid"
    """This request will not be taken however often it is made."""


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """Slurm has the job."""

    id: str


@dataclass(frozen=True, slots=True)
class SubmitRefusal:
    """Slurm surely does not have the job."""

    kind: RefusalKind
    reason: str
    """One line."""


@dataclass(frozen=True, slots=True)
class UnknownSubmit:
    """It is not known whether Slurm has the job: to be searched for by name."""

    reason: str
    """One line."""


ID_LINE = re.compile(r"(?P<id>\d+)(?:;[\w.-]+)?")
FAILED = ("Batch job submission failed: ", "allocation failure: ")
"""What stands before the controller's answer: of sbatch, and of sbatch --test-only."""
POLICY = "Job violates accounting/QOS policy"

FULL_TEXTS = (
    "Resource temporarily unavailable",
    "Unable to create job record, try again",
    "MaxJobCount limit reached",
    "System submissions disabled",
    "Requested operation is presently disabled",
    "Rate limit exceeded, please retry later",
    "I/O error writing script/environment to file",
)
DELAYED_TEXTS = (
    "Requested nodes are busy",
    "Required partition not available",
    "Required node not available",
    "Requested partition configuration not available now",
    "Partition in DOWN state",
    "Requested reservation is in use",
    "Requested reservation not usable now",
    "Licenses currently unavailable",
)
INVALID_TEXTS = (
    "Access denied to requested reservation",
    "Access/permission denied",
    "Batch script ",
    "Burst Buffer permission denied",
    "Burst Buffer request invalid",
    "CPU count specification invalid",
    "Cannot request more threads per core",
    "Circular job dependency",
    "Duplicate generic resource (gres) specification",
    "Invalid ",
    "Job cannot be submitted without the current working directory",
    "Job dependency problem",
    "Job script not specified",
    "Job size specification needs to be provided",
    "Memory required by task is not available",
    "More processors requested than permitted",
    "Multiple partition job request not supported",
    "No partition specified or system default partition",
    "Node count specification invalid",
    "Only batch jobs are accepted",
    "Pathname of a file, directory or other parameter too long",
    "Requested GRES option unsupported",
    "Requested node configuration is not available",
    "Requested nodes not in this partition",
    "Requested operation not supported on this system",
    "Requested reservation is invalid",
    "Requested time limit is invalid",
    "Requested topology configuration is not available",
    "Task count specification invalid",
    "Task distribution specification invalid",
    "Unspecified error",  # what a site's own submission check says (job_submit/lua)
    "User's group not permitted to use this partition",
)
NOT_OF_THE_REQUEST = ("Invalid authentication credential", "Invalid job credential", "Invalid job id specified")
"""Texts that begin like the ones above and say nothing of the request."""

BEFORE_SENDING = (
    re.compile(r"(?m)^sbatch: (?:unrecognized option|invalid option|option .* requires|ambiguous option)"),
    re.compile(
        r"(?m)^sbatch: error: (?:Invalid |This does not look like a batch script|Batch script |Script arguments)"
    ),
    re.compile(r"(?m)^sbatch: error: (?:No cluster '.*' known|Unable to open file|Unknown |Unrecognized )"),
)
"""Complaints of sbatch about its command line or script, before it asks the controller."""
NO_CONFIGURATION = re.compile(
    r"(?m)^sbatch: (?:fatal|error): .*(?:configuration file|configuration source|slurm\.conf)"
)
PER_JOB = re.compile(r"PerJob|PerNode|^QOSMin|^QOSMaxWall|^AssocMaxWall")
"""Limits on the size of one job: no waiting helps."""


def parse_submit_answer(output: ProgramOutput) -> SubmittedJob | SubmitRefusal | UnknownSubmit:
    """What an ended (or killed) `sbatch --parsable` says. Only known texts count as a refusal."""
    ids = [match for line in output.text.splitlines() if (match := ID_LINE.fullmatch(line.strip()))]
    if len(ids) == 1 and output.text.endswith("\n"):
        return SubmittedJob(ids[0]["id"])
    if not output.started:
        return SubmitRefusal(RefusalKind.INVALID, output.problem)
    if output.returncode in {126, 127}:  # of timeout(1): sbatch cannot be run, or is not there
        return SubmitRefusal(RefusalKind.INVALID, f"sbatch cannot be run: {output.problem}")
    if output.returncode in {None, 124, 137} or output.returncode == 0 or ids or _breaks_off(output.text):
        return UnknownSubmit(_why_unknown(output))
    refusal = _refusal(output)  # a site's wrapper may have printed a banner on standard output before it
    return refusal or UnknownSubmit(_why_unknown(output) if output.text.strip() else output.problem)


def parse_test_answer(output: ProgramOutput) -> SubmitRefusal | UnknownSubmit | None:
    """What `sbatch --test-only` says; None: Slurm would take the job."""
    if output.returncode == 0:
        return None
    if not output.started or output.returncode in {None, 124, 126, 127, 137}:
        return UnknownSubmit(output.problem)
    return _refusal(output) or UnknownSubmit(output.problem)


def _breaks_off(text: str) -> bool:
    """Whether what was printed may be the beginning of an id."""
    return bool(text) and not text.endswith("\n")


def _refusal(output: ProgramOutput) -> SubmitRefusal | None:
    lines = [strip_error_prefix(line.strip()) for line in output.errors.splitlines() if line.strip()]
    failed = next((_strip_failed(line) for line in reversed(lines) if line.startswith(FAILED)), "")
    others = [line for line in lines if not line.startswith(FAILED) and "sleeping and retrying" not in line]
    kind = _kind(failed, others) if failed else _kind_before_sending(output.errors)
    if kind is None:
        return None
    return SubmitRefusal(kind, format_one_line("; ".join([*([failed] if failed else []), *others])))


def _strip_failed(line: str) -> str:
    return next(line.removeprefix(each) for each in FAILED if line.startswith(each))


def _kind(failed: str, others: list[str]) -> RefusalKind | None:
    if failed.startswith(POLICY):
        return RefusalKind.INVALID if any(PER_JOB.search(line) for line in others) else RefusalKind.LIMIT
    if failed.startswith(FULL_TEXTS):
        return RefusalKind.FULL
    if failed.startswith(DELAYED_TEXTS):
        return RefusalKind.DELAYED
    if failed.startswith(INVALID_TEXTS) and not failed.startswith(NOT_OF_THE_REQUEST):
        return RefusalKind.INVALID
    return None


def _kind_before_sending(errors: str) -> RefusalKind | None:
    if NO_CONFIGURATION.search(errors):
        return RefusalKind.FULL
    if any(pattern.search(errors) for pattern in BEFORE_SENDING):
        return RefusalKind.INVALID
    return None


def _why_unknown(output: ProgramOutput) -> str:
    last = next((line for line in reversed(output.errors.splitlines()) if line.strip()), "")
    said = f": {strip_error_prefix(last)}" if last else ""
    if output.returncode in {None, 124, 137}:
        return format_one_line(f"sbatch was ended for want of an answer{said}")
    if output.returncode == 0:
        return format_one_line(f"sbatch gave no job id but {output.text.strip()!r}{said}")
    return format_one_line(f"{output.problem}; on standard output {output.text.strip()!r}")
