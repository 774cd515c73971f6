"""A planned sweep as the commands find it in a store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.errors import JobsError, describe_storage_error
from jobs.job import Job, add_ancestors
from jobs.local.runner_lock import read_runner_queue
from jobs.reconcile.snapshot import ClusterReport, SweepSnapshot, load_snapshot
from jobs.slurm.timeouts import TIMEOUTS_VARIABLE, SlurmTimeouts
from jobs.store.ledger import Ledger, has_batches
from jobs.store.paths import SAFE_NAME, Store, SweepPaths, UnsafeNameError
from jobs.store.results import list_names
from sweep.errors import ManifestError, NotPlannedError, StoreError, SweepError, UsageError
from sweep.plan.manifest import FORMAT, Manifest, read_manifest
from sweep.selection import CellSelection, format_name_hint, select_cells


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

    # Why: docs/decisions.md, D163
    def check_version(self) -> None:
        """StoreError for a plan of a later version, which this one can show and must not carry out."""
        if self.manifest.format > FORMAT:
            raise StoreError(
                f"{self.paths.manifest}: has format {self.manifest.format}, of a later version: submit with "
                "the version of sweep that planned it, or plan it again with this one"
            )

    def load_snapshot(
        self, *, recent_answers: bool = False, whole_account: bool = False, trusts_checked: bool = False
    ) -> SweepSnapshot:
        """All jobs as they stand now, with what a live runner or Slurm has queued and what Slurm says of the rest.

        With `recent_answers` Slurm is not asked again within a minute (`jobs.slurm.timeouts`); with `whole_account`
        sacct is asked about everything that was ever sent, not only about what is not settled; with `trusts_checked`
        results that an earlier report has read are not read again (`jobs.store.checked_results`).
        """
        jobs, name = self.manifest.jobs, self.manifest.sweep
        cluster = ClusterReport()
        if has_batches(self.paths.ledger):
            # imported here: a sweep that never went to Slurm is shown without loading its client
            from jobs.slurm.query import load_cluster_report

            cluster = load_cluster_report(
                self.store,
                name,
                {job.key for job in jobs},
                read_slurm_timeouts(),
                recent_answers=recent_answers,
                whole_account=whole_account,
            )
        queued_here = read_runner_queue(self.store, name)
        cluster = replace(cluster, observations={**cluster.observations, **queued_here})
        return load_snapshot(jobs, self.store, name, cluster, trusts_checked=trusts_checked)

    def select_cells(self, words: Sequence[str]) -> CellSelection:
        """What the words of a command line mean here. Raises NotPlannedError and UsageError."""
        return select_cells(self.manifest, words)

    def name_cells(self, words: Sequence[str]) -> frozenset[str]:
        """Names of the cells that the words mean, or that need a job that they mean; of all if there is no word."""
        chosen = self.select_cells(words)
        if not words:
            return frozenset(cell.name for cell in self.manifest.cells)
        return chosen.cells.union(*(job.cells for job in self.manifest.jobs if job.key in chosen.keys))

    def select_jobs(self, words: Sequence[str], phase: str | None = None) -> list[Job]:
        """Jobs of the cells and keys that the words name, all jobs if there is no word; of that phase alone, if any."""
        chosen = self.select_cells(words)
        return [job for job in self.manifest.jobs if phase in {None, job.phase} and chosen.has_job(job)]

    def select_chains(self, words: Sequence[str], phase: str | None = None) -> list[Job]:
        """The same with all that they build on: a cell's trunk, too, which is no cell's own."""
        if not words:
            return self.select_jobs((), phase)
        wanted = add_ancestors(self.manifest.jobs, {job.key for job in self.select_jobs(words)})
        return [job for job in self.manifest.jobs if phase in {None, job.phase} and job.key in wanted]


def open_sweep(root: Path, name: str) -> StoredSweep:
    """The sweep NAME of a store. Raises NotPlannedError with the names that are there."""
    store = Store(root)
    try:
        manifest = store.locate_sweep(name).manifest
    except UnsafeNameError as error:
        raise NotPlannedError(str(error)) from None
    if not manifest.exists():
        raise NotPlannedError(explain_absent_sweep(store, name))
    return StoredSweep(store, read_own_manifest(store, name))


def explain_absent_sweep(store: Store, name: str) -> str:
    """Why there is no such sweep, and what would do."""
    if not store.root.exists():
        there = "there is no such folder; give the store with --store DIR, or plan there with `sweep plan FILE`"
        return f"{store.root} has no planned sweep {name!r}; {there}"
    planned = list_planned_sweeps(store)
    there = (
        f"it holds {', '.join(planned)}; add one with `sweep plan FILE`"
        if planned
        else "it holds none; plan one with `sweep plan FILE`"
    )
    return f"{store.root} has no planned sweep {name!r}{format_name_hint(name, planned) or f'; {there}'}"


# Why: docs/decisions.md, D182
def open_sweep_to_read(root: Path, name: str | None, cells: Sequence[str]) -> tuple[StoredSweep, tuple[str, ...]]:
    """The sweep and the cells of a command that changes nothing, where NAME may be left out: of a store with one sweep
    it is that one, and the first word is a cell then, unless it is the sweep's name.

    Raises NotPlannedError, and UsageError where the store holds several sweeps and none is named.
    """
    store = Store(root)
    if name is not None and SAFE_NAME.fullmatch(name) and has_manifest(store, name):
        return open_sweep(root, name), tuple(cells)
    planned = list_planned_sweeps(store) if root.exists() else []
    if len(planned) != 1:
        if name is not None:
            return open_sweep(root, name), tuple(cells)
        if planned:
            raise UsageError(f"{root} holds several sweeps, so give the NAME of one: {', '.join(planned)}")
        raise NotPlannedError(f"{root} holds no planned sweep; plan one with `sweep plan FILE`")
    stored = open_sweep(root, planned[0])
    if name is None:
        return stored, ()
    try:
        stored.select_cells([name])
    except NotPlannedError as error:
        raise NotPlannedError(f"{explain_absent_sweep(store, name)}; nor is it a cell: {error}") from None
    return stored, (name, *cells)


def read_own_manifest(store: Store, name: str) -> Manifest:
    """The plan in the folder of that name. Raises ManifestError, for a copy of another sweep's folder too."""
    path = store.locate_sweep(name).manifest
    manifest = read_manifest(path)
    if manifest.sweep != name:
        raise ManifestError(
            f"{path}: is the plan of sweep {manifest.sweep!r}, and its folder is {name!r}; "
            f"give it back its name, or name the sweep {manifest.sweep}"
        )
    return manifest


def list_planned_sweeps(store: Store) -> list[str]:
    """Names of the sweeps that have a plan in the store. A folder of a name that is not ours is passed over.

    Raises OSError where the store cannot be listed: `Path.glob` would take it for an empty one.
    """
    names = sorted(name for name in list_names(store.sweeps) if SAFE_NAME.fullmatch(name))
    return [name for name in names if has_manifest(store, name)]


def has_manifest(store: Store, name: str) -> bool:
    """Whether there is a plan, as far as this user may see; one that may not be read is told by whoever reads it."""
    try:
        return store.locate_sweep(name).manifest.exists()
    except PermissionError:
        return True


@contextmanager
def print_user_errors() -> Iterator[None]:
    """Turns what execution and the operating system say into errors of one line."""
    try:
        yield
    except JobsError as error:
        raise SweepError(str(error)) from error
    except BrokenPipeError:
        raise  # of stdout: `sweep.cli` ends without a word
    except OSError as error:
        raise StoreError(describe_storage_error(error)) from error


def read_slurm_timeouts() -> SlurmTimeouts:
    """The usual ones, with what the environment changes. Raises UsageError."""
    try:
        return SlurmTimeouts.from_environment()
    except ValueError as error:
        raise UsageError(f"{error}; unset {TIMEOUTS_VARIABLE} or correct it") from None
