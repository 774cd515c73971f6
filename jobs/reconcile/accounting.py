"""How executions ended by the cluster's own account, beside what the attempts wrote about themselves."""

from collections.abc import Iterable
from dataclasses import dataclass

from jobs.store.records import FailureClass

LOST = "LOST"
"""State of an ending that the cluster has no row for: never started, or forgotten in a crash of the controller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingRecord:
    """One execution that the cluster knows to have ended: one row of `sacct --duplicates --allocations`.

    A job that was requeued has several with the same `id`, told apart by `submitted_at`. An execution that ended before
    its supervisor began has an ending and no attempt folder.
    """

    id: str
    """The cluster's name for it, such as 123_4 (array job and task) or 123."""
    batch: str
    """Job name, which carries the batch's identity: ids are given again after a crash of the controller."""
    key: str
    state: str
    """The cluster's word: COMPLETED, FAILED, TIMEOUT, NODE_FAIL, PREEMPTED, REQUEUED, CANCELLED, OUT_OF_MEMORY..."""
    failure: FailureClass | None = None
    """What the word means; None where it says nothing (COMPLETED, FAILED), and for what we took out ourselves."""
    submitted_at: float
    """Unix seconds, as the four below; a requeue counts as a new submission."""
    started_at: float = 0.0
    """0: it never started."""
    ended_at: float = 0.0
    elapsed_seconds: int = 0
    gpus: int = 0
    """Allocated, over all nodes (`gres/gpu` of AllocTRES)."""
    cpus: int = 0
    """Allocated, over all nodes."""
    nodes: str = ""
    """Node list as the cluster writes it; empty if it never started."""
    failed_node: str = ""
    """Of several, the one to blame, where the cluster says."""
    exit_code: int = 0
    signal: int = 0
    message: str = ""
    """One line for people, such as `cancelled by uid 1000`."""

    @property
    def gpu_seconds(self) -> int:
        return self.elapsed_seconds * self.gpus

    @property
    def ran(self) -> bool:
        """Whether nodes were given to it. A job that was cancelled in the queue may have a start all the same, its end;
        one that was requeued right after its launch may have none, and 0 seconds."""
        return self.elapsed_seconds > 0 or bool(self.nodes)

    @property
    def began_at(self) -> float:
        """Unix seconds: its start, or the submission before it where the cluster has lost the start."""
        return self.started_at or self.submitted_at


def deduplicate_records(endings: Iterable[AccountingRecord]) -> list[AccountingRecord]:
    """Each execution once, oldest first; of several reports of one the last counts.

    A word may change after the end (FAILED becomes REQUEUED), so give noted endings first and fresh ones after them.
    """
    found = {(ending.id, ending.batch, ending.submitted_at): ending for ending in endings}
    return sorted(found.values(), key=lambda ending: (ending.submitted_at, ending.started_at, ending.id))
