"""A planned sweep as the commands find it in a store."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import JobsError, storage_problem
from jobs.job import Job
from jobs.local.runner_lock import observe_runner
from jobs.reconcile.snapshot import Picture
from jobs.slurm.timeouts import VARIABLE, Patience
from jobs.store.ledger import Ledger, has_batches
from jobs.store.paths import Store, SweepPaths, UnsafeNameError
from sweep.errors import NotPlannedError, StoreError, SweepError, UsageError
from sweep.plan.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from jobs.slurm.batch_ledger import Notes
    from jobs.slurm.query import Look


@dataclass(frozen=True, slots=True)
class StoredSweep:
    """Store and manifest together."""

    store: Store
    manifest: Manifest

    @property
    def paths(self) -> SweepPaths:
        return self.store.sweep(self.manifest.sweep)

    @property
    def ledger(self) -> Ledger:
        """A new writer's."""
        return Ledger(self.paths.ledger)

    def empty_picture(self) -> Picture:
        """All jobs, before anything was looked at."""
        return Picture(self.manifest.jobs, self.store, self.paths.ledger)

    def picture(self, *, recent_answers: bool = False, whole_account: bool = False) -> Picture:
        """All jobs as they stand now, with what a live runner or Slurm has queued and what Slurm says of the rest.

        With `recent_answers` Slurm is not asked again within a minute (`jobs.slurm.timeouts`); with `whole_account`
        sacct is asked about everything that was ever sent, not only about what is not settled.
        """
        picture = self.empty_picture()
        observed = observe_runner(self.store, self.manifest.sweep)
        if not has_batches(self.paths.ledger):
            picture.look_at_everything(observed)
            return picture

        look = slurm_look(self, recent_answers=recent_answers, whole_account=whole_account)
        picture.look_at_everything({**look.seen.observations, **observed}, look.endings())
        picture.remarks = tuple(look.seen.remarks)
        return picture

    def jobs_named(self, words: Sequence[str]) -> list[Job]:
        """Jobs of the named cells, and jobs named by key; all jobs if there is no word. Raises NotPlannedError."""
        if not words:
            return list(self.manifest.jobs)
        cells = {cell.name for cell in self.manifest.cells}
        known = cells | {job.key for job in self.manifest.jobs}
        for word in words:
            if word not in known:
                raise NotPlannedError(f"sweep {self.manifest.sweep} has no cell or job {word!r}{near(word, known)}")
        wanted = set(words)
        return [job for job in self.manifest.jobs if job.key in wanted or wanted.intersection(job.cells)]


def near(word: str, known: set[str]) -> str:
    """`; is it NAME?` for a word that is nearly a known one."""
    from difflib import get_close_matches

    close = get_close_matches(word, sorted(known), n=1)
    return f"; is it {close[0]}?" if close else ""


def open_sweep(root: Path, name: str) -> StoredSweep:
    """The sweep NAME of a store. Raises NotPlannedError with the names that are there."""
    store = Store(root)
    try:
        manifest = store.sweep(name).manifest
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
def told_to_the_user() -> Iterator[None]:
    """Turns what execution and the operating system say into errors of one line."""
    try:
        yield
    except JobsError as error:
        raise SweepError(str(error)) from error
    except OSError as error:
        raise StoreError(storage_problem(error)) from error


# Slurm's usual patience, with what the environment changes.


def patience_from_environment() -> Patience:
    """Raises UsageError."""
    try:
        return Patience.from_environment()
    except ValueError as error:
        raise UsageError(f"{error}; unset {VARIABLE} or correct it") from None


# A sweep on Slurm as the reading commands see it: nothing is noted, sent or taken out.


def slurm_look(stored: StoredSweep, *, recent_answers: bool, whole_account: bool) -> "Look":
    """What the ledgers and Slurm say now; the options are those of `StoredSweep.picture`."""
    # imported here: a sweep that never went to Slurm is shown without loading its client
    from jobs.slurm.client import SlurmClient
    from jobs.slurm.query import ask, judged, keep, notes_of

    patience = patience_from_environment()
    notes = notes_of(stored.store, stored.manifest.sweep, {job.key for job in stored.manifest.jobs})
    kept = fresh_answers(stored, notes, patience) if recent_answers else None
    if kept is not None:
        return kept
    answers = ask(SlurmClient(patience), notes, settled_too=whole_account)
    if not whole_account:
        keep(stored.paths.slurm_answers, answers)
    return judged(stored.manifest.sweep, notes, answers, patience)


def fresh_answers(stored: StoredSweep, notes: "Notes", patience: Patience) -> "Look | None":
    """The last answers, where they are recent and nothing was sent since."""
    from jobs.slurm.query import fresh, judged

    sent = max((max(batch.intended_at, batch.sent_at) for batch in notes.batches.values()), default=0.0)
    kept = fresh(stored.paths.slurm_answers, time.time(), patience, not_before=sent)
    return None if kept is None else judged(stored.manifest.sweep, notes, kept, patience)
