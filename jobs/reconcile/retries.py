"""What follows an attempt without a result: go on, or stop and tell. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.job import Job
from jobs.reconcile.attempts import AttemptRecord
from jobs.store.records import FailureClass


class RetryDecision(StrEnum):
    """`GO_ON`: the next attempt starts from the checkpoint."""

    NEW = "new"
    GO_ON = "go_on"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How many attempts may end this way before the job counts as failed."""

    attempts: int
    renewed_by_progress: bool = False
    """A newer checkpoint starts the count anew: what gets on is not stuck."""


BUDGETS = {
    FailureClass.KILLED: RetryBudget(4, renewed_by_progress=True),
    FailureClass.NODE_FAULT: RetryBudget(4, renewed_by_progress=True),
    FailureClass.PREEMPTED: RetryBudget(20, renewed_by_progress=True),
    FailureClass.WALL_CLOCK: RetryBudget(3, renewed_by_progress=True),
    FailureClass.OUT_OF_MEMORY: RetryBudget(2),
    FailureClass.DAMAGED_INPUT: RetryBudget(2),
    FailureClass.UNKNOWN: RetryBudget(3),
}
"""Attempts allowed, the first included: a killed job is retried three times, one out of memory once.

Each class has its own count: preemptions and time limits take nothing from the tries after a real failure. A class that
is not here (diverged, data, code, cancelled by a person) stops the job at once.
"""

UNCOUNTED = {FailureClass.INTERRUPTED, FailureClass.STORAGE}
"""Asked to stop by us, or the store's fault, not the job's: it goes on at the next submission."""


def decide_retry(outcomes: Sequence[AttemptRecord], *, counted_from: float = 0.0, restarts: int = 0) -> RetryDecision:
    """`outcomes` oldest first; those begun before `counted_from` (Unix seconds, from `sweep resume`) do not count.

    `restarts`: the plan counts on so many time limits, which come on top of the budget for them.
    """
    if not outcomes:
        return RetryDecision.NEW
    counted = [outcome for outcome in outcomes if outcome.start.started_at > counted_from]
    if not counted or counted[-1].failure is None or counted[-1].failure in UNCOUNTED:
        return RetryDecision.GO_ON
    budget = BUDGETS.get(counted[-1].failure)
    if budget is None or _is_deterministic(counted):  # another try would end the same way, or nobody wants it
        return RetryDecision.STOP
    allowed = budget.attempts + (restarts if counted[-1].failure is FailureClass.WALL_CLOCK else 0)
    return RetryDecision.GO_ON if _spent(counted, budget) < allowed else RetryDecision.STOP


def choose_memory_gib(job: Job, outcomes: Sequence[AttemptRecord]) -> float:
    """GiB a node for the next attempt: raised once to `retry_memory_gib`, where that is allowed, after any attempt ran
    out of memory. A new budget does not lower it again."""
    resources = job.resources
    ran_out = any(outcome.failure is FailureClass.OUT_OF_MEMORY for outcome in outcomes)
    return max(resources.memory_gib, resources.retry_memory_gib) if ran_out else resources.memory_gib


def _is_deterministic(counted: Sequence[AttemptRecord]) -> bool:
    last = counted[-1].end
    if last is None or not last.traceback_digest or last.failure is FailureClass.NODE_FAULT:
        return False  # a broken link or device shows the same traceback on every node that it hits
    return (
        sum(outcome.end is not None and outcome.end.traceback_digest == last.traceback_digest for outcome in counted)
        > 1
    )


def _spent(counted: Sequence[AttemptRecord], budget: RetryBudget) -> int:
    """Attempts of the last one's class, back to the last progress where that renews the budget."""
    spent = 0
    for outcome in reversed(counted):
        if outcome.failure is counted[-1].failure:
            spent += 1
        if budget.renewed_by_progress and outcome.advanced:
            break
    return spent
