"""What executions used: core and GPU seconds, split into work that was kept and work that was lost. Pure.

Slurm's row counts if there is one, in its own whole seconds, requeues and failures included. Without a row the
attempt's own record counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, match_records

OVERSTATED_SECONDS = 60.0
"""If a row ends so long after the attempt's own record, the controller was down and noticed the end late."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Wall seconds, and the seconds of all cores and of all GPUs together. Whole numbers stay whole numbers."""

    seconds: float = 0
    cpu_seconds: float = 0
    gpu_seconds: float = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.gpu_seconds + other.gpu_seconds,
        )

    @property
    def cpu_hours(self) -> float:
        return self.cpu_seconds / 3600

    @property
    def gpu_hours(self) -> float:
        return self.gpu_seconds / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionUsage:
    """One allocation that has ended. `used` and `wasted` together are all of it."""

    used: Usage
    wasted: Usage
    gpu_type: str = ""
    """Empty if only Slurm knows of the execution; then it is the job's type."""
    gpu_kinds: str = ""
    """What Slurm allocated, by the site's own names (`AccountingRecord.gpu_kinds`)."""
    by_cluster: bool = False
    """From Slurm's row, not from the attempt's own record."""
    # Why: docs/decisions.md, D40
    overstated_seconds: int = 0
    """Wall seconds of the row after the attempt's own end, if there are more than OVERSTATED_SECONDS."""

    @property
    def total(self) -> Usage:
        return self.used + self.wasted


def compute_execution_usage(
    outcomes: Sequence[AttemptRecord], endings: Sequence[AccountingRecord] = (), *, gpus: int = 0
) -> list[ExecutionUsage]:
    """All of one job's executions that have ended, those without an attempt included. `outcomes`: oldest first.

    `endings`: all rows of the job; if none are given, those of the outcomes.
    `gpus`: what the job asks for. It counts if Slurm does not account for GPUs and no attempt has recorded them.
    """
    began = [outcome for outcome in outcomes if outcome.began]
    rows = endings or [outcome.accounting_record for outcome in outcomes if outcome.accounting_record is not None]
    matched = match_records([outcome.start for outcome in began], rows)
    found = []
    for number, outcome in enumerate(began):
        following = began[number + 1] if number + 1 < len(began) else None
        row = matched.by_attempt.get(outcome.start.attempt)
        if row is not None and row.ran:
            found.append(_by_row(row, outcome, following))
        elif outcome.end is not None:
            found.append(_by_record(outcome, following))
    return [*found, *(_without_attempt(row, gpus) for row in matched.rest if row.ran)]


def find_kept_until(outcome: AttemptRecord, following: AttemptRecord | None) -> float | None:
    """Unix seconds up to which a later checkpoint or the result kept the attempt's work; None if nothing was kept.

    Infinite for the attempt that finished the job. The time before the first step counts as part of the work.
    """
    end = outcome.end
    if end is None or _lost_again(outcome, following):
        return None
    if end.failure is None:
        return float("inf")
    return end.checkpoint_at if end.checkpoint_at > outcome.start.started_at else None


def _lost_again(outcome: AttemptRecord, following: AttemptRecord | None) -> bool:
    """Whether the next attempt found nothing of what this one had added: its checkpoints were damaged or removed."""
    return (
        following is not None and outcome.advanced and following.start.checkpoint_step <= outcome.start.checkpoint_step
    )


def _by_row(row: AccountingRecord, outcome: AttemptRecord, following: AttemptRecord | None) -> ExecutionUsage:
    until = find_kept_until(outcome, following)
    seconds = row.elapsed_seconds
    kept = 0 if until is None else round(max(0.0, min(until - row.began_at, float(seconds))))
    cpus, gpus = row.cpus or outcome.start.cpus, row.gpus or outcome.start.gpus
    late = row.ended_at - outcome.end.ended_at if outcome.end is not None and outcome.recorded else 0.0
    return ExecutionUsage(
        used=_usage(kept, cpus, gpus),
        wasted=_usage(seconds - kept, cpus, gpus),
        gpu_type=outcome.start.gpu_type,
        gpu_kinds=row.gpu_kinds,
        by_cluster=True,
        overstated_seconds=int(late) if late > OVERSTATED_SECONDS else 0,
    )


def _by_record(outcome: AttemptRecord, following: AttemptRecord | None) -> ExecutionUsage:
    start, end = outcome.start, outcome.end
    if end is None:
        return ExecutionUsage(used=Usage(), wasted=Usage(), gpu_type=start.gpu_type)
    seconds = max(0.0, end.ended_at - start.started_at)
    until = find_kept_until(outcome, following)
    kept = 0.0 if until is None else max(0.0, min(until - start.started_at, seconds))
    return ExecutionUsage(
        used=_usage(kept, start.cpus, start.gpus),
        wasted=_usage(seconds - kept, start.cpus, start.gpus),
        gpu_type=start.gpu_type,
    )


def _without_attempt(row: AccountingRecord, gpus: int) -> ExecutionUsage:
    wasted = _usage(row.elapsed_seconds, row.cpus, row.gpus or gpus)
    return ExecutionUsage(used=Usage(), wasted=wasted, gpu_kinds=row.gpu_kinds, by_cluster=True)


def _usage(seconds: float, cpus: int, gpus: int) -> Usage:
    return Usage(seconds, seconds * cpus, seconds * gpus)
