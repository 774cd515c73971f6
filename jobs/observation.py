"""What a cluster, be it Slurm or this machine, says of one job."""

from dataclasses import dataclass
from enum import StrEnum


class ClusterState(StrEnum):
    """The state of a job's newest attempt as the cluster reports it."""

    QUEUED = "queued"
    RUNNING = "running"
    STUCK = "stuck"
    """Queued behind a parent that ended without success, or held by the cluster itself: it would wait for ever."""
    ENDED = "ended"
    """How it ended is on disk and in the accounting."""
    UNKNOWN = "unknown"
    """The cluster gave no answer, or contradicts itself: the job may be alive or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One job as the cluster reports it."""

    state: ClusterState
    id: str = ""
    """The cluster's name for the attempt."""
    returncode: int | None = None
    """With ENDED, where the cluster knows it: the exit code of the attempt's supervisor."""
    waits_for_parents: bool = False
    """With QUEUED: the cluster holds it back until other jobs end."""
    message: str = ""
    """With QUEUED: what it waits for. With ENDED: how it ended, or what the supervisor wrote on stderr."""
    put_aside: bool = False
    """With QUEUED: requeued and held in a state of its own (SPECIAL_EXIT), by a rule of the site for the exit code of
    its last attempt, or by a person."""
    awaited: str = ""
    """The cluster's ids of the jobs that it waits for, where the message says that it waits for jobs."""
    doubt: str = ""
    """With ENDED: why nobody can say whether a person cancelled it. Empty if that is known."""
    vouched_from: float = 0.0
    """With UNKNOWN or a doubt: when `batch` was sent (Unix seconds). A `sweep resume` that names the batch settles it,
    as a person then says that the job is gone and may be sent again. 0: only the cluster can settle it."""
    batch: str = ""
    """Name of the batch that `vouched_from` is about; empty where that is 0."""
    hidden_owner: str = ""
    """With UNKNOWN: the user who sent it, if the cluster hides that user's jobs."""

    user: str = ""
    """Whose job it is in the cluster, where that is known. Only that user, or an operator, can end it."""

    def describe_wait(self) -> str:
        """For people: the message, and the ids where there are any."""
        return f"{self.message} ({self.awaited})" if self.awaited else self.message
