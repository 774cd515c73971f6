"""Whether a job that has ended without a result is tried again, and with how much memory. Pure.

The numbers stand in `failures.POLICIES`.
"""

from collections.abc import Sequence
from enum import StrEnum

from jobs.job import Job
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.failures import POLICIES, RetryPolicy
from jobs.reconcile.node_exclusion import list_attempt_nodes
from jobs.store.ledger import NEVER_RESUMED, Resumption


class RetryDecision(StrEnum):
    """What to do with a job next."""

    NEW = "new"
    """It has no attempt yet."""
    GO_ON = "go_on"
    """The next attempt starts from the checkpoint."""
    STOP = "stop"


def is_forgiven(attempt: AttemptRecord, resumption: Resumption) -> bool:
    """Whether a `sweep resume` named the attempt, so that it counts no longer."""
    if attempt.start.started_at <= resumption.before:
        return True
    if attempt.began:
        return attempt.start.attempt in resumption.attempts
    return attempt.accounting_record is not None and attempt.accounting_record.batch in resumption.batches


# Why: docs/decisions.md, D161
def decide_retry(
    attempts: Sequence[AttemptRecord], *, resumption: Resumption = NEVER_RESUMED, restarts: int = 0
) -> RetryDecision:
    """`attempts` oldest first; what `sweep resume` named does not count.

    `restarts`: the attempts beyond the first that the plan counts on.
    """
    if not attempts:
        return RetryDecision.NEW
    counted = _select_counted(attempts, resumption)
    if not counted or counted[-1].failure is None:
        return RetryDecision.GO_ON
    policy = POLICIES[counted[-1].failure]
    if policy.attempts is None:
        return RetryDecision.GO_ON
    if policy.stops_at_once or (policy.same_traceback_stops and _repeats_its_traceback(counted)):
        return RetryDecision.STOP
    allowed = policy.attempts + (restarts if policy.planned_restarts else 0)
    return RetryDecision.GO_ON if _count_spent(counted, policy) < allowed else RetryDecision.STOP


# Why: docs/decisions.md, D218
def is_ended_by_person(attempts: Sequence[AttemptRecord], resumption: Resumption = NEVER_RESUMED) -> bool:
    """Whether a person took the job out with the cluster's own means since the last `sweep resume`."""
    counted = _select_counted(attempts, resumption)
    last = counted[-1].failure if counted else None
    return last is not None and POLICIES[last].by_person


def _select_counted(attempts: Sequence[AttemptRecord], resumption: Resumption) -> list[AttemptRecord]:
    return [attempt for attempt in attempts if not is_forgiven(attempt, resumption)]


def choose_memory_gib(job: Job, attempts: Sequence[AttemptRecord]) -> float:
    """GiB a node for the next attempt: `retry_memory_gib`, if it is more, once any attempt has run out of memory."""
    resources = job.resources
    # What was forgiven counts here: `sweep resume` gives new attempts, and not less memory.
    more = any(attempt.failure is not None and POLICIES[attempt.failure].more_memory for attempt in attempts)
    return max(resources.memory_gib, resources.retry_memory_gib) if more else resources.memory_gib


# Why: docs/decisions.md, D125
def _repeats_its_traceback(counted: Sequence[AttemptRecord]) -> bool:
    """Whether the last traceback came before on other nodes, or before at all where there is but one machine."""
    last = counted[-1]
    if last.end is None or not last.end.traceback_digest:
        return False
    same = [each for each in counted[:-1] if each.end and each.end.traceback_digest == last.end.traceback_digest]
    nodes = set(list_attempt_nodes(last))
    return any(not nodes or nodes.isdisjoint(list_attempt_nodes(each)) for each in same)


def _count_spent(counted: Sequence[AttemptRecord], policy: RetryPolicy) -> int:
    """Attempts that ended as the last one did, back to the last progress if that renews the budget."""
    spent = 0
    for attempt in reversed(counted):
        if attempt.failure is counted[-1].failure:
            spent += 1
        if policy.renewed_by_progress and attempt.advanced:
            break
    return spent
