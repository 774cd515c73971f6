"""Reads what `sweep gc` decides on: all plans of a store, what they promise, what is done, what the folders hold."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from jobs.job import Job
from jobs.set_aside import can_be_at_work, measure_tree, needs_optimizer
from jobs.store.paths import RunPaths, Store
from jobs.store.reading import parse_object, read_file
from jobs.store.results import check_result
from sweep.disk.inventory import FileKind, FoundFiles, list_run_files, list_run_names
from sweep.disk.rules import Holding, KeepPolicy, KeptPlan, RunFacts, decide_holdings
from sweep.errors import StoreError
from sweep.results.evidence import parse_number
from sweep.results.scores import compute_mean, compute_stable_score, group_tasks, parse_task_scores
from sweep.spec.schema import KeepFields
from sweep.spec.yaml_source import read_yaml
from sweep.stored_sweep import StoredSweep, list_planned_sweeps, read_own_manifest

STABLE_SCORES = ("vision", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSurvey:
    """A store as one sweep's `gc` sees it."""

    sweep: str
    plans: tuple[KeptPlan, ...]
    runs: Mapping[str, RunFacts]
    """By key."""
    features: FoundFiles | None = None
    unclear: tuple[str, ...] = field(default_factory=tuple)
    """Runs that no plan names, that are at work, and do not say yet what they read."""

    def decide(self, *, unplanned: bool) -> list[Holding]:
        """What becomes of every file."""
        return decide_holdings(self.plans, self.runs, sweep=self.sweep, unplanned=unplanned)

    def index_jobs(self) -> Mapping[str, Job]:
        """Planned jobs by key."""
        return {job.key: job for plan in self.plans for job in plan.manifest.jobs}


def load_survey(stored: StoredSweep, *, measures: bool = True) -> DiskSurvey:
    """Reads every plan and run of the store anew. Without `measures` the folders' content is left out.

    Raises ManifestError, StoreError and SweepFileError for a plan that cannot be read: what it needs is not known.
    """
    store = stored.store
    plans = load_plans(store)
    if all(plan.manifest.sweep != stored.manifest.sweep for plan in plans):
        raise StoreError(f"{stored.paths.manifest}: the plan is gone; make it again with `sweep plan FILE`")
    planned = {job.key: job for plan in plans for job in plan.manifest.jobs}
    runs, unclear = {}, []
    for stage, key in list_run_names(store.runs):
        run = RunPaths(store.runs / stage / key)
        if key in planned:
            if planned[key].stage != stage:
                continue  # a copy of a stage's folder: the plan's own run is another
            runs[key] = _read_planned(run, planned[key], measures=measures)
            continue
        at_work = can_be_at_work(run)
        reads = _read_inputs(run) if at_work else ()
        if reads is None:
            unclear.append(str(run.root))
        runs[key] = _read_unplanned(run, stage, key, at_work=at_work, reads=reads or (), measures=measures)
    features = None
    if measures:
        with contextlib.suppress(FileNotFoundError):
            size, inodes = measure_tree(store.features)
            features = FoundFiles(kind=FileKind.FEATURES, path=store.features.name, bytes=size, inodes=inodes)
    return DiskSurvey(sweep=stored.manifest.sweep, plans=plans, runs=runs, features=features, unclear=tuple(unclear))


def load_plans(store: Store) -> tuple[KeptPlan, ...]:
    """All plans of a store, with what each promises."""
    names = list_planned_sweeps(store)
    return tuple(KeptPlan(manifest=read_own_manifest(store, name), keep=read_keep(store, name)) for name in names)


def read_keep(store: Store, name: str) -> KeepPolicy:
    """`keep` of the sweep file as it was planned; the defaults where a plan has no file beside it."""
    path = store.locate_sweep(name).source
    if not path.exists():
        return KeepPolicy()
    data: Any = read_yaml(path).data
    given = data.get("keep", {}) if isinstance(data, dict) else {}
    try:
        fields = KeepFields.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["keep", *map(str, first["loc"])])
        raise StoreError(f"{path}: {place}: {first['msg']}; plan the sweep again with a `keep` that holds") from None
    return KeepPolicy(
        trunk=fields.trunk,
        pretrain=fields.pretrain,
        finetune=fields.finetune,
        optimizer=fields.optimizer,
        cells=tuple(fields.cells),
    )


def _read_planned(run: RunPaths, job: Job, *, measures: bool) -> RunFacts:
    result = check_result(run, job.key).content
    steps: Any = job.settings.get("branch_steps", ())
    return RunFacts(
        stage=job.stage,
        key=job.key,
        done=result is not None,
        score=compute_score(result) if result is not None and job.stage == "evaluate" else None,
        loss=parse_number(result.get("loss")) if result is not None else None,
        found=_list_files(run, result, {*steps}) if measures else (),
    )


# Why: docs/decisions.md, D242
def _read_unplanned(
    run: RunPaths, stage: str, key: str, *, at_work: bool, reads: tuple[tuple[str, bool], ...], measures: bool
) -> RunFacts:
    result = check_result(run, key).content
    return RunFacts(
        stage=stage,
        key=key,
        done=result is not None,
        at_work=at_work,
        reads=reads,
        found=_list_files(run, result, frozenset()) if measures else (),
    )


def _find_final(result: Mapping[str, Any] | None) -> str:
    return str(result.get("checkpoint", "")) if result is not None else ""


def _list_files(
    run: RunPaths, result: Mapping[str, Any] | None, steps: set[int] | frozenset[int]
) -> tuple[FoundFiles, ...]:
    final = _find_final(result)
    return tuple(list_run_files(run, final=final, done=bool(final), branch_steps=steps))


def compute_score(result: Mapping[str, Any]) -> float | None:
    """The mean of an evaluation's stable scores of vision and of text; None if it has none."""
    groups = group_tasks(parse_task_scores(result))
    found = [stable.score for name in STABLE_SCORES if (stable := compute_stable_score(groups[name])) is not None]
    return compute_mean(found) if found else None


def _read_inputs(run: RunPaths) -> tuple[tuple[str, bool], ...] | None:
    """Keys of what a run at work reads, by its job.json, and whether that includes optimizer states; None if it does
    not say."""
    try:
        content = parse_object(read_file(run.job))
        reads = needs_optimizer(str(content["stage"]), content["config"])
        return tuple((str(parent["key"]), reads) for parent in content["parents"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
