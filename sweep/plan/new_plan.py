"""Makes the plan of a sweep file, compares it with the stored one, and stores it.

Keys are content addresses, so a new plan reuses all finished work. An unchanged plan leaves the stored file as it is.
Two changes need --replace: one that drops begun jobs from the plan, because nobody would see them run on, and one that
replaces another experiment of the same name.
"""

import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from jobs.counted import format_counted
from jobs.errors import add_denial
from jobs.store.paths import Store, SweepPaths, open_replacement
from jobs.store.results import list_begun_keys, list_finished_keys
from sweep.catalog import load_catalog
from sweep.content.digest import PREFIX
from sweep.content.kept import DataContents
from sweep.cost.counts import DataCounts
from sweep.cost.figures import Figure, FigureBook
from sweep.cost.speed import load_measured_speeds, load_measured_startups
from sweep.errors import ManifestError, PlanConflictError, StoreError, UsageError
from sweep.file_facts import is_present
from sweep.plan.data_identity import ContentChange, StoredIdentities, identify_data, list_unread_data
from sweep.plan.diff import PlanDiff, compare_plans, format_phase_counts
from sweep.plan.grid import expand_grid, resolve_precisions
from sweep.plan.loss_report import MixtureLoss, list_mixture_losses
from sweep.plan.manifest import Manifest, is_same_manifest, read_manifest, write_manifest
from sweep.plan.placements import PhasePlacement, list_placements
from sweep.plan.planner import build_manifest
from sweep.plan.speed_report import SpeedComparison, list_speed_comparisons
from sweep.spec.overrides import apply_overrides, list_noted_overrides
from sweep.spec.reader import check_sweep_source
from sweep.spec.schema import Sweep
from sweep.spec.yaml_source import YamlSource, read_yaml

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPlan:
    """A new plan and how it stands to the stored one."""

    manifest: Manifest
    source_text: str
    """The sweep file as it was given."""
    stored_text: str
    """The same with the values of `--set`."""
    remarks: tuple[str, ...]
    is_stored: bool
    """The stored plan is this one, byte for byte."""
    diff: PlanDiff | None
    """From the stored plan to this one; None where there is none or it is the same."""
    speeds: tuple[SpeedComparison, ...] = ()
    """What finished jobs say of the plan's speeds."""
    placements: tuple[PhasePlacement, ...] = ()
    """Where its jobs run, and whether they fit."""
    losses: tuple[MixtureLoss, ...] = ()
    """What each data set of a mixture with images is expected to have of the loss."""
    figures: Mapping[Figure, Collection[tuple[str, str]]] = field(default_factory=dict)
    """What the estimates rest on, each with the (model, phase) whose jobs it is for."""
    counts: DataCounts | None = None
    """What was counted for this plan; `store_plan` keeps it."""
    damage: str = ""
    """Why the stored plan cannot be read."""
    contents: DataContents | None = None
    """What was found of the data's content for this plan; `store_plan` keeps it."""
    stored: StoredIdentities | None = None
    """What the store knew of the data."""
    changes: tuple[ContentChange, ...] = ()
    """Other content under names that the stored plan uses."""


def make_plan(
    source: Path | YamlSource,
    store: Store,
    announce: Callable[[str], None] = logger.info,
    *,
    same_data: Collection[str] = (),
    overrides: Sequence[str] = (),
) -> NewPlan:
    """Reads the sweep file and plans it; writes nothing. `announce` is told of what can take minutes.

    `source`: the file, or what was read of it. `overrides`: `PATH=VALUE`, laid over it. `same_data`: data sets whose
    changed content is to leave all keys as they are.
    """
    catalog = load_catalog()
    read = read_yaml(source) if isinstance(source, Path) else source
    if overrides and isinstance(read.data, dict):  # else the reader says what the file is not
        read = apply_overrides(read, overrides)
    sweep = check_sweep_source(read, store=store.root, catalog=catalog)
    grid = resolve_precisions(sweep, expand_grid(sweep), catalog)
    contents, stored = DataContents(store), StoredIdentities(store, sweep.name, same_data)
    check_data_names(same_data, sweep)
    if unread := list_unread_data(sweep, grid, contents):
        announce(f"looking at the content of local data, which the next plan need not do: {', '.join(unread)}")
    identified = identify_data(sweep, grid, contents, stored)
    sweep = replace(sweep, data=identified.data)
    measured, startups = load_measured_speeds(store, catalog), load_measured_startups(store, catalog)
    counts = DataCounts(store)
    figures = FigureBook(catalog, sweep.data, counts)
    plan = partial(build_manifest, sweep, grid, catalog, measured, startups=startups, identities=identified.identities)
    manifest = plan(figures=figures)
    if counts.missing:  # known only now: which data the jobs read, and how
        announce(f"counting local data, which the next plan need not do: {list_uncounted(counts)}")
        counts.count_missing()
        figures = FigureBook(catalog, sweep.data, counts)
        manifest = plan(figures=figures)
    is_stored, diff, damage = compare_with_stored(manifest, store.locate_sweep(sweep.name).manifest)
    return NewPlan(
        manifest=manifest,
        source_text=sweep.source.text,
        stored_text=sweep.source.set_text or sweep.source.text,
        remarks=(
            *grid.remarks,
            *find_repeated_work(manifest),
            *figures.contradictions,
            *find_other_overrides(store.locate_sweep(sweep.name).source, sweep.source.set_text),
        ),
        speeds=list_speed_comparisons(sweep, catalog, measured),
        placements=list_placements(manifest, sweep, catalog, measured),
        losses=list_mixture_losses(sweep, catalog, manifest, counts),
        figures=figures.used,
        counts=counts,
        contents=contents,
        stored=stored,
        changes=identified.changes,
        is_stored=is_stored,
        diff=diff,
        damage=damage,
    )


def find_other_overrides(stored: Path, text: str) -> list[str]:
    """A remark where the stored plan was made with other `--set` than this one."""
    try:
        before = list_noted_overrides(stored.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return []  # there is none, or it is told elsewhere
    now = list_noted_overrides(text)
    if before == now:
        return []
    old, new = (f"with {' '.join(given)}" if given else "without --set" for given in (before, now))
    return [f"the stored plan was made {old}, this one {new}"]


def check_data_names(names: Collection[str], sweep: Sweep) -> None:
    """UsageError for a name that the file gives to no data."""
    for name in names:
        if name.partition("/")[0] not in sweep.data:
            raise UsageError(f"--same-data {name}: the file has no such data; it has {', '.join(sweep.data)}")


def list_uncounted(counts: DataCounts) -> str:
    """The paths of the data that are to be counted."""
    return ", ".join(dict.fromkeys(use.path for use in counts.missing))


def compare_with_stored(manifest: Manifest, path: Path) -> tuple[bool, PlanDiff | None, str]:
    """Whether the plan is stored already; else how it differs; else why the stored one cannot be read."""
    try:
        if is_same_manifest(path, manifest):
            return True, None, ""
        return False, compare_plans(read_manifest(path), manifest) if path.exists() else None, ""
    except ManifestError as error:
        return False, None, str(error)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None


def find_repeated_work(manifest: Manifest) -> list[str]:
    """Cells that differ in name only: an axis means nothing there (captions at image share 0)."""
    first: dict[tuple[str, ...], str] = {}
    repeats = []
    for cell in manifest.cells:
        work = tuple(chain.evaluate for chain in cell.chains)
        if first.setdefault(work, cell.name) != cell.name:
            repeats.append(f"{cell.name} (as {first[work]})")
    if not repeats:
        return []
    asks = format_counted(len(repeats), "cell asks", "cells ask")
    share = "shares" if len(repeats) == 1 else "share"
    return [f"{asks} for the same work as another and {share} all of it, such as {repeats[0]}"]


def find_absent_data(manifest: Manifest, told: Collection[str]) -> list[str]:
    """A remark on data sets that are not on this machine, but for those that are `told` already."""
    absent = [
        name
        for name, path in manifest.data.items()
        if name not in told and not name.startswith(PREFIX) and path.startswith("/") and not is_present(path)
    ]
    return [f"not there yet, and no job reads it: data {', '.join(absent)}"] if absent else []


def format_uncounted(problems: Mapping[str, str]) -> list[str]:
    """A remark on each data set that is there and was not counted; most problems name the file already."""
    return [
        f"not counted: {problem if problem.startswith(path) else f'{path}: {problem}'}"
        for path, problem in problems.items()
    ]


# Why: docs/decisions.md, D7
def check_nothing_lost(planned: NewPlan, store: Store) -> None:
    """PlanConflictError where storing the plan would drop begun work or another experiment's plan."""
    name = planned.manifest.sweep
    if planned.damage:
        raise PlanConflictError(f"{planned.damage} with --replace")
    if planned.diff is None:
        return
    if planned.changes and not planned.diff.is_empty:
        raise PlanConflictError(format_content_refusal(planned, store))
    if planned.diff.is_other_experiment:
        raise PlanConflictError(
            f"the stored sweep {name!r} has no cell and no job in common with this file; "
            "give this one another name, or take its place with --replace"
        )
    begun = list_begun_keys(store, planned.diff.removed_jobs)
    open_jobs = tuple(job for job in planned.diff.removed_jobs if job.key in begun)
    open_jobs = tuple(job for job in open_jobs if job.key not in list_finished_keys(store, open_jobs))
    if open_jobs:
        raise PlanConflictError(
            f"This edit drops {format_counted(len(open_jobs), 'unfinished job')} ({format_phase_counts(open_jobs)}), "
            f"such as {open_jobs[0].stage}/{open_jobs[0].key}. To see all: --diff. To accept: `sweep plan FILE "
            f"--replace`. Checkpoints are kept; cancel jobs that run first (`sweep cancel {name}`)"
        )


# Why: docs/decisions.md, D145
def format_content_refusal(planned: NewPlan, store: Store) -> str:
    """Which data have other content than the stored plan went by, and what that does to its jobs."""
    gone, done = planned.diff.removed_jobs if planned.diff else (), count_done_removed(planned, store)
    told = "; ".join(map(str, planned.changes))
    return (
        f"{told}: not what {planned.manifest.sweep!r} was planned with; "
        f"{format_counted(len(gone), 'job')} would leave the plan, {done:,} of them done (--diff shows which); "
        f"put the former data back, train on the new ones with --replace, "
        f"or keep all keys with --same-data {planned.changes[0].label.partition('/')[0]} if the samples are the same"
    )


def count_done_removed(planned: NewPlan, store: Store) -> int:
    """Jobs that leave the plan and are done."""
    gone = planned.diff.removed_jobs if planned.diff else ()
    return len(list_finished_keys(store, gone) & {job.key for job in gone})


def store_plan(planned: NewPlan, store: Store) -> None:
    """Writes manifest and sweep file, and keeps the plan before for `sweep explain`."""
    paths = store.locate_sweep(planned.manifest.sweep)
    check_still_current(planned)
    try:
        for kept in (planned.counts, planned.contents):
            if kept is not None:
                kept.save()
        if planned.stored is not None:
            planned.stored.save(planned.manifest.identities)
        write_sweep_file(paths.source, planned.stored_text)
        if not planned.is_stored:
            if planned.diff is None or not planned.diff.is_empty:
                copy_previous_plan(paths)  # else only resources or estimates are other ones
            write_manifest(paths.manifest, planned.manifest)
    except OSError as error:
        reason = add_denial(error.strerror or str(error), error)
        raise StoreError(f"{error.filename or paths.root}: cannot be written: {reason}") from None


# Why: docs/decisions.md, D146
def check_still_current(planned: NewPlan) -> None:
    """PlanConflictError if somebody else has stored this sweep with other data since the plan was made."""
    if planned.stored is None:
        return
    before, now = planned.stored.own, planned.stored.read_own_again()
    if (before.places, before.known) != (now.places, now.known) and now.known != planned.manifest.identities:
        raise PlanConflictError(
            f"the sweep {planned.manifest.sweep!r} was planned with other data by another command meanwhile; plan again"
        )


def write_sweep_file(path: Path, text: str) -> None:
    """The sweep file as planned; an equal one is left as it is."""
    if not (path.exists() and path.read_bytes() == text.encode()):
        with open_replacement(path) as unfinished:
            unfinished.write_bytes(text.encode())


def copy_previous_plan(paths: SweepPaths) -> None:
    """Copies the stored plan beside itself."""
    if paths.manifest.exists():
        with open_replacement(paths.previous) as unfinished:
            shutil.copyfile(paths.manifest, unfinished)
