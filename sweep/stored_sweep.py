"""A planned sweep as the commands find it in a store."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobsError, describe_storage_error
from jobs.job import Job
from jobs.local.runner_lock import read_runner_queue
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.slurm.timeouts import TIMEOUTS_VARIABLE, SlurmTimeouts
from jobs.store.ledger import Ledger, has_batches
from jobs.store.paths import Store, SweepPaths, UnsafeNameError
from sweep.errors import NotPlannedError, StoreError, SweepError, UsageError
from sweep.plan.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from jobs.slurm.batch_ledger import BatchHistory
    from jobs.slurm.query import SlurmSnapshot


@dataclass(frozen=True, slots=True)
class StoredSweep:
    """Store and manifest together."""

    store: Store
    manifest: Manifest

    @property
    def paths(self) -> SweepPaths:
        return self.store.locate_sweep(self.manifest.sweep)

    @property
    def ledger(self) -> Ledger:
        """A new writer's."""
        return Ledger(self.paths.ledger)

    def build_empty_snapshot(self) -> SweepSnapshot:
        """All jobs, before anything was looked at."""
        return SweepSnapshot(self.manifest.jobs, self.store, self.paths.ledger)

    def load_snapshot(self, *, recent_answers: bool = False, whole_account: bool = False) -> SweepSnapshot:
        """All jobs as they stand now, with what a live runner or Slurm has queued and what Slurm says of the rest.

        With `recent_answers` Slurm is not asked again within a minute (`jobs.slurm.timeouts`); with `whole_account`
        sacct is asked about everything that was ever sent, not only about what is not settled.
        """
        picture = self.build_empty_snapshot()
        observed = read_runner_queue(self.store, self.manifest.sweep)
        if not has_batches(self.paths.ledger):
            picture.reload(observed)
            return picture

        look = query_slurm_snapshot(self, recent_answers=recent_answers, whole_account=whole_account)
        picture.reload({**look.reconciled.observations, **observed}, look.merge_records())
        picture.remarks = tuple(look.reconciled.remarks)
        return picture

    def select_jobs(self, words: Sequence[str]) -> list[Job]:
        """Jobs of the named cells, and jobs named by key; all jobs if there is no word. Raises NotPlannedError."""
        if not words:
            return list(self.manifest.jobs)
        cells = {cell.name for cell in self.manifest.cells}
        known = cells | {job.key for job in self.manifest.jobs}
        for word in words:
            if word not in known:
                raise NotPlannedError(
                    f"sweep {self.manifest.sweep} has no cell or job {word!r}{format_name_hint(word, known)}"
                )
        wanted = set(words)
        return [job for job in self.manifest.jobs if job.key in wanted or wanted.intersection(job.cells)]


def format_name_hint(word: str, known: set[str]) -> str:
    """`; is it NAME?` for a word that is nearly a known one."""
    from difflib import get_close_matches

    close = get_close_matches(word, sorted(known), n=1)
    return f"; is it {close[0]}?" if close else ""


def open_sweep(root: Path, name: str) -> StoredSweep:
    """The sweep NAME of a store. Raises NotPlannedError with the names that are there."""
    store = Store(root)
    try:
        manifest = store.locate_sweep(name).manifest
    except UnsafeNameError as error:
        raise NotPlannedError(str(error)) from None
    if not manifest.exists():
        planned = sorted(path.parent.name for path in store.sweeps.glob("*/manifest.jsonl"))
        there = f"it holds {', '.join(planned)}" if planned else "it holds none; plan one with `sweep plan FILE`"
        if not root.exists():
            there = "there is no such folder; give the store with --store DIR, or plan there with `sweep plan FILE`"
        raise NotPlannedError(f"{root} has no planned sweep {name!r}; {there}")
    return StoredSweep(store, read_manifest(manifest))


@contextmanager
def print_user_errors() -> Iterator[None]:
    """Turns what execution and the operating system say into errors of one line."""
    try:
        yield
    except JobsError as error:
        raise SweepError(str(error)) from error
    except OSError as error:
        raise StoreError(describe_storage_error(error)) from error


# Slurm's usual patience, with what the environment changes.


def read_slurm_timeouts() -> SlurmTimeouts:
    """Raises UsageError."""
    try:
        return SlurmTimeouts.from_environment()
    except ValueError as error:
        raise UsageError(f"{error}; unset {TIMEOUTS_VARIABLE} or correct it") from None


# A sweep on Slurm as the reading commands see it: nothing is noted, sent or taken out.


def query_slurm_snapshot(stored: StoredSweep, *, recent_answers: bool, whole_account: bool) -> "SlurmSnapshot":
    """What the ledgers and Slurm say now; the options are those of `StoredSweep.picture`."""
    # imported here: a sweep that never went to Slurm is shown without loading its client
    from jobs.slurm.client import SlurmClient
    from jobs.slurm.query import build_slurm_snapshot, load_batch_history, query_answers, save_answers

    patience = read_slurm_timeouts()
    notes = load_batch_history(stored.store, stored.manifest.sweep, {job.key for job in stored.manifest.jobs})
    kept = load_recent_slurm_snapshot(stored, notes, patience) if recent_answers else None
    if kept is not None:
        return kept
    answers = query_answers(SlurmClient(patience), notes, settled_too=whole_account)
    if not whole_account:
        save_answers(stored.paths.slurm_answers, answers)
    return build_slurm_snapshot(stored.manifest.sweep, notes, answers, patience)


def load_recent_slurm_snapshot(
    stored: StoredSweep, notes: "BatchHistory", patience: SlurmTimeouts
) -> "SlurmSnapshot | None":
    """The last answers, where they are recent and nothing was sent since."""
    from jobs.slurm.query import build_slurm_snapshot, read_fresh_answers

    sent = max((max(batch.intended_at, batch.sent_at) for batch in notes.batches.values()), default=0.0)
    kept = read_fresh_answers(stored.paths.slurm_answers, time.time(), patience, not_before=sent)
    return None if kept is None else build_slurm_snapshot(stored.manifest.sweep, notes, kept, patience)
