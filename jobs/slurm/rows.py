"""What squeue and sacct say of one job, as typed rows.

Rows are named tuples, which a hundred thousand of are made in a blink.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Row = TypeVar("Row")


class QueueRow(NamedTuple):
    """A line of `squeue --array`: a job or array task that is not finished."""

    id: str
    """123, or 123_4 for an array's task."""
    name: str
    user: str
    state: str
    """PENDING, RUNNING, COMPLETING..."""
    reason: str = ""
    """Slurm's word for what it waits for."""
    dependency: str = ""
    qos: str = ""
    account: str = ""
    partition: str = ""
    submitted_at: float = 0.0
    """Unix seconds."""
    started_at: float = 0.0
    """Of a pending job: when the scheduler expects to start it; 0 where it does not say."""
    nodes: str = ""
    priority: int = 0
    ends_at: float = 0.0
    """When it ended, or its time limit will end it."""


class AccountRow(NamedTuple):
    """A line of `sacct --duplicates --allocations`: one execution; a requeued job has several with one id."""

    id: str
    """123, or 123_4. Lines of pending array tasks (123_[5-9]) are left out: squeue tells of them. Such a line in a
    final state (the tasks were cancelled before they began) is given as one row a task."""
    name: str
    state: str
    """The bare word: `CANCELLED by 1000` is CANCELLED here, with `by_uid` 1000."""
    by_uid: str = ""
    submitted_at: float = 0.0
    """Unix seconds; 0 where Slurm says Unknown or None."""
    started_at: float = 0.0
    ended_at: float = 0.0
    elapsed_seconds: int = 0
    gpus: int = 0
    """`gres/gpu=` of AllocTRES alone: `gres/gpu:a100=` counts the same devices again."""
    cpus: int = 0
    """Allocated, over all nodes; for a job that never started, what it asked for."""
    nodes: str = ""
    """Empty: it never started."""
    exit_code: int = 0
    """Codes of 128 and more come folded (less 128)."""
    signal: int = 0
    reason: str = ""
    failed_node: str = ""
    """Whose failure ended it; only later versions of Slurm tell."""
    shared: bool = False
    """Made of one line for several tasks. Slurm's list of them may be out of date: a task's own row outweighs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[Row]):
    """What a client said, or why it said nothing."""

    rows: tuple[Row, ...] = ()
    problem: str = ""
    """Empty if `rows` is the whole truth; else one line, such as `Unable to contact slurm controller`."""
    absent: bool = False
    """With a problem: this cluster does not have the service at all (accounting is switched off)."""

    @property
    def ok(self) -> bool:
        return not self.problem


class Answers(NamedTuple):
    """What squeue and sacct said at one moment."""

    queue: Answer[QueueRow]
    accounting: Answer[AccountRow]
    taken_at: float
    """Unix seconds, before the questions."""
