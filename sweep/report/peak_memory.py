"""The memory that killed executions used, for who looks at one job: a kill is often memory that ran out."""

from collections.abc import Mapping, Sequence

from jobs.errors import JobsError
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.failures import POLICIES
from jobs.store.ledger import has_batches
from sweep.stored_sweep import StoredSweep, read_slurm_timeouts

PeakMemory = Mapping[tuple[str, float], float]
"""Bytes by Slurm's id and time of submission of an execution."""
NO_PEAKS: PeakMemory = {}
MOST_ASKED = 100
"""Executions, the newest; a pattern may name many cells."""


# Why: docs/decisions.md, D222
def read_peak_memory(stored: StoredSweep, outcomes: Sequence[AttemptRecord]) -> PeakMemory:
    """Of the attempts among `outcomes` that were killed. Slurm is asked only if there are any."""
    killed = [each for each in outcomes if each.failure is not None and POLICIES[each.failure].by_memory]
    records = [each.accounting_record for each in killed if each.accounting_record is not None]
    ran = sorted((each for each in records if each.ran), key=lambda each: each.submitted_at)
    if not ran or not has_batches(stored.paths.ledger):
        return NO_PEAKS
    from jobs.slurm.query import query_peak_memory  # here: nothing else of a report needs Slurm's client

    keys = {job.key for job in stored.manifest.jobs}
    try:
        return query_peak_memory(stored.store, stored.manifest.sweep, keys, read_slurm_timeouts(), ran[-MOST_ASKED:])
    except JobsError:
        return NO_PEAKS  # the report is worth more than this part of it


def find_peak_gib(outcome: AttemptRecord, peaks: PeakMemory) -> float | None:
    """GiB of the attempt; None where nobody knows."""
    record = outcome.accounting_record
    peak = peaks.get((record.id, record.submitted_at)) if record else None
    return None if peak is None else peak / 2**30


def format_peak(gib: float) -> str:
    """As words behind how an execution ended."""
    return f"Slurm saw at most {gib:.3g} GiB of memory in one of its tasks"
