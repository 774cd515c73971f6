"""When one job is in the queue more than once: which copy counts."""

from collections.abc import Sequence
from typing import NamedTuple

from jobs.cluster import ClusterState
from jobs.slurm.rows import QueueRow

ORDER = (ClusterState.RUNNING, ClusterState.UNKNOWN, ClusterState.QUEUED, ClusterState.STUCK)
"""The most alive first; what is in an unknown state may be running."""


class Copy(NamedTuple):
    """A live row of squeue."""

    row: QueueRow
    state: ClusterState
    intended_at: float
    """Unix seconds: when its batch was about to be sent."""


def choose(copies: Sequence[Copy]) -> tuple[Copy, Sequence[Copy]]:
    """The copy that counts, and the others: the most alive; then the newest batch, whose dependencies are the right
    ones; then the lowest id."""
    if len(copies) == 1:
        return copies[0], ()
    first, *others = sorted(copies, key=lambda copy: (ORDER.index(copy.state), -copy.intended_at, _number(copy.row.id)))
    return first, others


def _number(job: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in job.split("_"))
