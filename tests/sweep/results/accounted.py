"""What Slurm's accounting says of jobs of a synthetic store."""

from typing import Any

from jobs.reconcile.accounting import AccountingRecord
from jobs.store.records import AttemptStart
from tests.jobs.reconcile.executions import BATCH
from tests.jobs.reconcile.executions import ending as any_ending
from tests.sweep.synthetic_store import Written


def row_of(key: str, state: str, started_at: float, seconds: int, **changes: Any) -> AccountingRecord:
    return any_ending(state, started_at, seconds, **{"key": key, "id": f"7_{key[:4]}", **changes})


def known_to_slurm(written: Written, key: str, attempt: str, restart: int = 0) -> None:
    """Makes an attempt on disk one of that Slurm job."""
    path = written.run(key).locate_attempt(attempt).start
    start = AttemptStart.read(path)
    assert start is not None
    changed = {name: getattr(start, name) for name in AttemptStart.__slots__}
    AttemptStart(**{**changed, "job_id": f"7_{key[:4]}", "batch": BATCH, "restart": restart}).write(path)
