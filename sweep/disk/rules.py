"""What of finished runs may go: a pure function of plans, states, policies and what the folders hold.

A run's weights stay while a job that is not done may start from them, in whichever plan of the store, and while the
`keep` of a plan promises them. Its optimizer's state stays while such a job reads it. Records, logs and metrics stay.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from jobs.job import Job, add_ancestors
from jobs.set_aside import needs_optimizer
from sweep.disk.inventory import FileKind, FoundFiles
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest

BEST = "best "


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPolicy:
    """`keep` of a sweep file (`sweep.spec.schema.KeepFields`)."""

    trunk: str = "all"
    pretrain: str = "all"
    finetune: str = "all"
    optimizer: str = "none"
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPlan:
    """A plan of the store, with what it promises."""

    manifest: Manifest
    keep: KeepPolicy = KeepPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run's folder."""

    stage: str
    key: str
    done: bool = False
    at_work: bool = False
    """An attempt owns it, or may."""
    score: float | None = None
    """Of an evaluation: the mean of its stable scores."""
    loss: float | None = None
    """Of a training: as its result has it."""
    reads: tuple[tuple[str, bool], ...] = ()
    """Of a run at work that no plan names: the keys of its parents, and whether it reads their optimizer's state."""
    found: tuple[FoundFiles, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReasons:
    """Why a run's weights and its optimizer's state stay; empty if nothing speaks for them."""

    weights: str = ""
    optimizer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A file or folder of a run, and what becomes of it."""

    stage: str
    key: str
    phase: str
    """Empty of a run that no plan names."""
    files: FoundFiles
    goes: bool
    why: str

    @property
    def planned(self) -> bool:
        return bool(self.phase)


@dataclass(slots=True)
class _Reasons:
    """By key; the first reason counts."""

    weights: dict[str, str] = field(default_factory=dict)
    optimizer: dict[str, str] = field(default_factory=dict)

    def add_reader(self, parents: Iterable[str], why: str, *, optimizer: bool) -> None:
        for parent in parents:
            self.weights.setdefault(parent, why)
            if optimizer:
                self.optimizer.setdefault(parent, why)


def find_reasons(plans: Sequence[KeptPlan], runs: Mapping[str, RunFacts]) -> dict[str, KeptReasons]:
    """Why files of the planned runs stay, by key; a key without an entry has no reason to."""
    found = _Reasons()
    done = {key for key, run in runs.items() if run.done}
    for plan in plans:
        for job in plan.manifest.jobs:
            if job.key not in done:
                why = f"{job.phase} {job.key} of {plan.manifest.sweep}, not done yet, reads it"
                found.add_reader(job.parents, why, optimizer=needs_optimizer(job.stage, job.config))
    for run in runs.values():
        for parent, optimizer in run.reads:
            found.add_reader(
                [parent], f"{run.stage} {run.key}, which left the plan and runs, reads it", optimizer=optimizer
            )
    for plan in plans:
        _add_promises(plan, runs, found)
    keys = found.weights.keys() | found.optimizer.keys()
    return {
        key: KeptReasons(weights=found.weights.get(key, ""), optimizer=found.optimizer.get(key, "")) for key in keys
    }


def _add_promises(plan: KeptPlan, runs: Mapping[str, RunFacts], found: _Reasons) -> None:
    """What the plan's own `keep` says."""
    keep, manifest = plan.keep, plan.manifest
    plausible = select_plausible(manifest, keep.cells)
    for key in plausible:
        why = f"keep.cells of {manifest.sweep}"
        found.weights.setdefault(key, why)
        found.optimizer.setdefault(key, why)
    for phase in [name for name, phase in PHASES.items() if phase.trains]:
        rule = getattr(keep, phase)
        why = f"keep.{phase}: {rule} of {manifest.sweep}"
        for key in select_kept(manifest, phase, rule, runs):
            found.weights.setdefault(key, why)
            if keep.optimizer == "all":
                found.optimizer.setdefault(key, f"keep.optimizer: all of {manifest.sweep}")


def select_plausible(manifest: Manifest, patterns: Sequence[str]) -> set[str]:
    """Keys of the jobs that cells of these patterns need."""
    cells = {cell.name for cell in manifest.cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)}
    return add_ancestors(manifest.jobs, {job.key for job in manifest.jobs if not cells.isdisjoint(job.cells)})


def select_kept(manifest: Manifest, phase: str, rule: str, runs: Mapping[str, RunFacts]) -> Collection[str]:
    """Keys of the phase's jobs whose weights the rule keeps, done or not."""
    jobs = [job for job in manifest.jobs if job.phase == phase]
    if rule == "none":
        return ()
    if rule == "last":
        return _select_last(manifest, phase, jobs)
    if rule.startswith(BEST):
        return _select_best(manifest, jobs, int(rule.removeprefix(BEST)), runs)
    return [job.key for job in jobs]


def _select_last(manifest: Manifest, phase: str, jobs: Sequence[Job]) -> Collection[str]:
    if phase == "trunk":
        continued = {parent for job in jobs for parent in job.parents}
        return [job.key for job in jobs if job.key not in continued]
    if phase == "finetune":
        kept = set()
        for cell in manifest.cells:
            most = max((chain.epochs for chain in cell.chains), default=0)
            kept |= {chain.finetune for chain in cell.chains if chain.epochs == most}
        return kept
    return [job.key for job in jobs]


def _select_best(manifest: Manifest, jobs: Sequence[Job], number: int, runs: Mapping[str, RunFacts]) -> Collection[str]:
    """The best by score; by loss where nothing of the phase is evaluated. What has no figure yet stays: one that is
    outside the best now can never come back into them."""
    scores = collect_scores(manifest, runs)
    evaluated = any(job.key in scores for job in jobs)
    figures = scores if evaluated else {job.key: _find_negative_loss(runs.get(job.key)) for job in jobs}
    known = {job.key: figure for job in jobs if (figure := figures.get(job.key)) is not None}
    best = sorted(known, key=lambda key: (-known[key], key))[:number]
    return {*best, *(job.key for job in jobs if job.key not in known)}


def _find_negative_loss(run: RunFacts | None) -> float | None:
    return None if run is None or run.loss is None else -run.loss


def collect_scores(manifest: Manifest, runs: Mapping[str, RunFacts]) -> dict[str, float | None]:
    """Of each job that leads to an evaluation of its cell, by key: the best score below it; None if one is missing."""
    below: dict[str, list[float | None]] = defaultdict(list)
    for cell in manifest.cells:
        for chain in cell.chains:
            run = runs.get(chain.evaluate)
            score = run.score if run is not None and run.done else None
            below[chain.finetune].append(score)
            below[cell.pretrain].append(score)
    return {
        key: None if any(each is None for each in found) else max(each for each in found if each is not None)
        for key, found in below.items()
    }


# Why: docs/decisions.md, D241
def decide_holdings(
    plans: Sequence[KeptPlan], runs: Mapping[str, RunFacts], *, sweep: str, unplanned: bool
) -> list[Holding]:
    """What becomes of every file of the sweep's runs, and of runs that no plan names, in the order of `runs`.

    `unplanned`: checkpoints of the latter go. Runs of other sweeps alone are left out.
    """
    reasons = find_reasons(plans, runs)
    phases = {job.key: job.phase for plan in plans for job in plan.manifest.jobs}
    own = {job.key for plan in plans if plan.manifest.sweep == sweep for job in plan.manifest.jobs}
    holdings = []
    for run in runs.values():
        if run.key in own:
            judge = _judge_planned(run, reasons.get(run.key, KeptReasons()))
        elif run.key not in phases:
            judge = _judge_unplanned(run, reasons.get(run.key, KeptReasons()), wanted=unplanned)
        else:
            continue
        for files in run.found:
            goes, why = judge.get(files.kind, (False, ALWAYS))
            holdings.append(
                Holding(stage=run.stage, key=run.key, phase=phases.get(run.key, ""), files=files, goes=goes, why=why)
            )
    return holdings


ALWAYS = "always stays"
Judgement = Mapping[FileKind, tuple[bool, str]]


def _judge_planned(run: RunFacts, kept: KeptReasons) -> Judgement:
    if not run.done:
        stays = (False, "it is not done yet")
        return dict.fromkeys((FileKind.WEIGHTS, FileKind.OPTIMIZER, FileKind.UNFINISHED), stays)
    if run.at_work:
        stays = (False, "an attempt of it is at work")
        return dict.fromkeys((FileKind.WEIGHTS, FileKind.OPTIMIZER, FileKind.OLDER, FileKind.UNFINISHED), stays)
    weights, optimizer = kept.weights, kept.optimizer
    return {
        FileKind.WEIGHTS: (not weights, weights or "nothing that is not done reads it, and `keep` does not ask for it"),
        FileKind.OPTIMIZER: (not optimizer, optimizer or "nothing that is not done reads it"),
        FileKind.OLDER: (True, "the final checkpoint is there"),
        FileKind.UNFINISHED: (True, "its writer is gone"),
    }


def _judge_unplanned(run: RunFacts, kept: KeptReasons, *, wanted: bool) -> Judgement:
    why = "no plan names it"
    if run.at_work:
        verdict = (False, f"{why}, and an attempt of it is at work")
    elif kept.weights:
        verdict = (False, kept.weights)
    else:
        verdict = (wanted, why if wanted else f"{why}; --unplanned frees it")
    return dict.fromkeys((FileKind.WEIGHTS, FileKind.OPTIMIZER, FileKind.OLDER, FileKind.UNFINISHED), verdict)
