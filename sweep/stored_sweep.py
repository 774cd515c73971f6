"""A planned sweep as the commands find it in a store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import JobsError, storage_problem
from jobs.job import Job
from jobs.local.runner_lock import observe_runner
from jobs.reconcile.snapshot import Picture
from jobs.store.ledger import Ledger, has_batches
from jobs.store.paths import Store, SweepPaths, UnsafeNameError
from sweep.errors import NotPlannedError, StoreError, SweepError
from sweep.plan.manifest import Manifest, read_manifest


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
        from sweep.slurm_view import slurm_look

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
