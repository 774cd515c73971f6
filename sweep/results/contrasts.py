"""Differences of scores paired by question, with 95 % intervals: rows of contrasts.parquet.

A contrast is one score at two values of an axis: of one pair of models (all other axes fixed), of one pair of cells
(mean over their epochs), or the mean over all pairs. Seeds are averaged in each.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from sweep.phases import PHASES
from sweep.results.answers import NO_ANSWERS, TaskAnswers
from sweep.results.intervals import (
    adjust_by_holm,
    compute_p_values,
    compute_t_quantile,
    compute_t_quantiles,
    compute_unseen_bound,
)
from sweep.results.slices import MEASURES, SLICE_AXES, Row, list_seeds, normalise_axis_value, sort_values

Floats = npt.NDArray[np.float64]

AXES = ("branch", "image_share", "instruction_share", "captions", "encoder", "freeze_encoder", "amount", "epochs")
"""Axes whose values are compared with each other."""
MODEL, CELL, AVERAGE = LEVELS = ("model", "cell", "average")
"""Of a contrast: one pair of models; one pair of cells, the mean over their epochs; the mean over all pairs."""
QUESTIONS, SEEDS = "questions", "questions+seeds"
"""What noise is in an interval."""
TRAINING_PHASES = tuple(name for name in PHASES if name != "evaluate")
MANY_TASKS = "the models' scores are means over different tasks"
NO_DIFFERENCE = "no question differs"


@dataclass(frozen=True, slots=True)
class DifferenceEstimate:
    """A difference with its noise."""

    difference: float
    stderr: float
    freedom: float
    """Degrees of freedom of t."""
    noise: str
    """`QUESTIONS` or `SEEDS`."""


# Why: docs/decisions.md, D94
def estimate_difference(
    coefficients: Floats, tasks: Sequence[TaskAnswers], rows: Sequence[npt.NDArray[np.intp]]
) -> DifferenceEstimate | None:
    """A linear combination of models, as mean over tasks, with the noise of its questions and seeds.

    `coefficients`: (R, K), for each of R seeds those of K models, negative where a model is subtracted; the estimate is
    the mean over the seeds. `rows`: for each task the K models' places in it.

    Questions: a task's variance is c'Vc (`TaskAnswers.covariance`) with G - 1 degrees of freedom; tasks are taken as
    independent, so their variances add up. Where a task has no difference between clusters at all, it has the error
    with which the interval reaches `compute_unseen_bound`; None for a loss, which has no bound.
    Seeds, from two on: the variance of the R estimates over R is added, with R - 1 degrees of freedom. It holds the
    noise of a seed's own answers, which the questions' variance holds too: the sum is rather too large.
    Degrees of freedom of the sum by Satterthwaite 1946 and Welch 1947.
    """
    mean = coefficients.mean(axis=0)
    count = len(tasks)
    parts: list[tuple[float, float]] = []
    by_seed = np.zeros(len(coefficients))
    for task, place in zip(tasks, rows, strict=True):
        covariance = task.covariance[np.ix_(place, place)]
        variance = float(mean @ covariance @ mean)
        largest = float(np.abs(mean) @ np.sqrt(np.diagonal(covariance))) ** 2
        if variance <= 1e-12 * largest:  # rounding
            if not task.is_fraction:
                return None
            variance = (compute_unseen_bound(task.clusters) / compute_t_quantile(task.clusters - 1)) ** 2
        parts.append((variance / count**2, task.clusters - 1))
        by_seed += coefficients @ task.scores[place] / count
    seeds = len(by_seed)
    if seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))
    total = math.fsum(variance for variance, _ in parts)
    return DifferenceEstimate(
        difference=float(by_seed.mean()),
        stderr=math.sqrt(total),
        freedom=total**2 / math.fsum(variance**2 / freedom for variance, freedom in parts),
        noise=SEEDS if seeds > 1 else QUESTIONS,
    )


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A fine-tuned model with scores: its row of results.parquet, and what the row does not say."""

    row: Row
    scores: Mapping[str, float]
    """By task."""
    groups: Mapping[str, tuple[str, ...]]
    """Tasks that a stable score is the mean over, by its name."""
    runs: Mapping[str, tuple[str, ...]]
    """Keys of the jobs that trained it, by phase."""

    @property
    def key(self) -> str:
        return str(self.row["evaluate_key"])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models that differ in one axis alone."""

    first: ScoredModel
    second: ScoredModel
    cell: tuple[Any, ...]
    """Equal for all pairs of the same two cells but for seeds and epochs."""
    seeds: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which two values of an axis are compared, and at which of the others."""

    model: str
    axis: str
    first: Any
    second: Any
    level: str
    """One of `LEVELS`."""
    at: tuple[tuple[str, Any], ...] = ()
    """Axes with the one value that all its models have; those that it is a mean over are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Score at the second value minus score at the first, with its 95 % interval."""

    comparison: Comparison
    score: str
    """Name of a stable score, or of a task."""
    is_task: bool
    pairs: int
    """Pairs of cells."""
    models: int
    """Pairs of models."""
    seeds: int
    difference: float
    tasks: tuple[str, ...]
    questions: int = 0
    clusters: int = 0
    estimate: DifferenceEstimate | None = None
    """None: there is no interval, and `note` says why."""
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    family_size: int = 0
    shared_draws: tuple[str, ...] = ()
    """Phases that all seeds share: their noise is in no bar."""
    note: str = ""

    @property
    def family(self) -> str:
        """The contrasts among which p is adjusted: those of one model, axis, score and level."""
        found = self.comparison
        return f"{found.model}, {found.axis}, {self.score}, {found.level}"


def compute_contrasts(models: Sequence[ScoredModel], answers: Mapping[str, TaskAnswers]) -> list[Contrast]:
    """The contrasts of every axis that varies: of stable scores at every level, of tasks at all but single models."""
    drafts: list[Contrast] = []
    for comparison, pairs in group_pairs(models).items():
        for measure in MEASURES:
            drafts += iter_drafts(comparison, pairs, answers, measure.name, measure.column)
        if comparison.level != MODEL:
            for task in sorted({task for pair in pairs for task in pair.first.scores}):
                drafts += iter_drafts(comparison, pairs, answers, task)
    return adjust_families(add_intervals(drafts))


def group_pairs(models: Sequence[ScoredModel]) -> dict[Comparison, list[Pair]]:
    """All pairs of models by what they compare, at every level."""
    found: dict[Comparison, list[Pair]] = {}
    several_epochs = len({model.row["epochs"] for model in models}) > 1
    for axis in AXES:
        others = [name for name in SLICE_AXES if name != axis]
        families: dict[tuple[Any, ...], dict[Any, ScoredModel]] = defaultdict(dict)
        for model in models:
            row = model.row
            value = normalise_axis_value(row, axis)
            if value is not None:
                identity = tuple(normalise_axis_value(row, name) for name in others)
                families[(row["model"], list_seeds(row), identity)][value] = model
        levels = {MODEL: others, AVERAGE: []}
        if axis != "epochs" and several_epochs:
            levels[CELL] = [name for name in others if name != "epochs"]
        for (model_name, seeds, identity), family in families.items():
            at = dict(zip(others, identity, strict=True))
            cell = tuple(value for name, value in at.items() if name != "epochs")
            for first, second in combinations(sort_values(family), 2):
                pair = Pair(family[first], family[second], cell, seeds)
                for level, kept in levels.items():
                    fixed = tuple((name, at[name]) for name in kept)
                    found.setdefault(Comparison(model_name, axis, first, second, level, fixed), []).append(pair)
    return found


def iter_drafts(
    comparison: Comparison, pairs: Sequence[Pair], answers: Mapping[str, TaskAnswers], score: str, column: str = ""
) -> Iterator[Contrast]:
    """The contrast of one score, if any pair has it; without interval and p-value. `column`: of a stable score."""
    scored = list(iter_differences(pairs, score, column))
    if not scored:
        return
    found = [pair for pair, _ in scored]
    weights = compute_weights(found)
    tasks = sorted({model.groups.get(score, ()) if column else (score,) for model in list_models(found)})
    note, estimate = (MANY_TASKS, None) if len(tasks) > 1 else (explain_missing(found, tasks[0], answers), None)
    if not note:
        estimate = estimate_pairs(found, weights, [answers[task] for task in tasks[0]])
        note = "" if estimate else NO_DIFFERENCE
    known = [answers[task] for task in tasks[0]] if estimate else []
    yield Contrast(
        comparison=comparison,
        score=score,
        is_task=not column,
        pairs=len({(pair.cell, pair.seeds) for pair in found}),
        models=len(found),
        seeds=len({pair.seeds for pair in found}),
        difference=math.fsum(weight * change for weight, (_, change) in zip(weights, scored, strict=True)),
        tasks=tasks[0] if len(tasks) == 1 else (),
        questions=sum(task.questions for task in known),
        clusters=sum(task.clusters for task in known),
        estimate=estimate,
        shared_draws=list_shared_draws(found, estimate),
        note=note,
    )


def iter_differences(pairs: Iterable[Pair], score: str, column: str) -> Iterator[tuple[Pair, float]]:
    """The pairs of which both models have the score, and its difference."""
    for pair in pairs:
        first, second = (
            model.row.get(column) if column else model.scores.get(score) for model in (pair.first, pair.second)
        )
        if first is not None and second is not None:
            yield pair, second - first


def list_models(pairs: Iterable[Pair]) -> list[ScoredModel]:
    """The models of both sides, each once."""
    return list({model.key: model for pair in pairs for model in (pair.first, pair.second)}.values())


def compute_weights(pairs: Sequence[Pair]) -> list[float]:
    """Of each pair in the mean over pairs of cells, each of which is the mean over its epochs."""
    sizes: dict[tuple[Any, ...], int] = defaultdict(int)
    for pair in pairs:
        sizes[pair.cell, pair.seeds] += 1
    return [1 / len(sizes) / sizes[pair.cell, pair.seeds] for pair in pairs]


def explain_missing(pairs: Sequence[Pair], tasks: Sequence[str], answers: Mapping[str, TaskAnswers]) -> str:
    """Why there is no interval; "" where every model's answers to every task are there."""
    keys = [model.key for model in list_models(pairs)]
    for task in tasks:
        if missing := answers[task].explain_missing(keys) if task in answers else NO_ANSWERS:
            return f"{task}: {missing}"
    return ""


def estimate_pairs(
    pairs: Sequence[Pair], weights: Sequence[float], tasks: Sequence[TaskAnswers]
) -> DifferenceEstimate | None:
    """The mean over pairs. Seeds are told apart where every pair of cells has the same ones, from two on."""
    seeds: dict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)
    for pair in pairs:
        seeds[pair.cell].add(pair.seeds)
    names = sorted({pair.seeds for pair in pairs}, key=repr)
    if any(len(each) < len(names) for each in seeds.values()):
        names = names[:1]
    by_seed = {name: number for number, name in enumerate(names)} if len(names) > 1 else {}
    models = [model.key for model in list_models(pairs)]
    columns = {key: number for number, key in enumerate(models)}
    coefficients = np.zeros((len(names), len(models)))
    for pair, weight in zip(pairs, weights, strict=True):
        row = by_seed.get(pair.seeds, 0)
        coefficients[row, columns[pair.first.key]] -= weight * len(names)
        coefficients[row, columns[pair.second.key]] += weight * len(names)
    rows = [np.array([task.models[key] for key in models], dtype=np.intp) for task in tasks]
    return estimate_difference(coefficients, tasks, rows)


def list_shared_draws(pairs: Sequence[Pair], estimate: DifferenceEstimate | None) -> tuple[str, ...]:
    """The phases of which there is one draw: without seeds all, else those whose jobs the seeds share."""
    if estimate is None:
        return ()
    if estimate.noise == QUESTIONS:
        return TRAINING_PHASES
    return tuple(phase for phase in TRAINING_PHASES if is_shared(phase, pairs))


def is_shared(phase: str, pairs: Sequence[Pair]) -> bool:
    """Whether models that differ in their seed only have a job of the phase in common."""
    runs: dict[tuple[Any, ...], list[tuple[str, ...]]] = defaultdict(list)
    for pair in pairs:
        for side, model in enumerate((pair.first, pair.second)):
            runs[pair.cell, model.row["epochs"], side].append(model.runs.get(phase, ()))
    return any(len({*found}) < len(found) for found in runs.values() if found[0])


def add_intervals(drafts: Sequence[Contrast]) -> list[Contrast]:
    """The same with intervals and p-values, computed for all at once."""
    known = [draft.estimate for draft in drafts if draft.estimate]
    differences, errors, freedom = (
        np.array([getattr(each, name) for each in known], dtype=float) for name in ("difference", "stderr", "freedom")
    )
    halves = compute_t_quantiles(freedom) * errors
    p_values = compute_p_values(differences / errors, freedom)
    columns = zip(differences - halves, differences + halves, p_values, strict=True)
    found = []
    for draft in drafts:
        if draft.estimate:
            low, high, p_value = map(float, next(columns))
            found.append(replace(draft, low=low, high=high, p_value=p_value))
        else:
            found.append(draft)
    return found


def adjust_families(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same with p-values adjusted by Holm within each family."""
    families: dict[str, list[int]] = defaultdict(list)
    for place, contrast in enumerate(contrasts):
        if contrast.p_value is not None:
            families[contrast.family].append(place)
    found = list(contrasts)
    for places in families.values():
        adjusted = adjust_by_holm([contrasts[place].p_value or 0.0 for place in places])
        for place, p_holm in zip(places, adjusted, strict=True):
            found[place] = replace(contrasts[place], p_holm=p_holm, family_size=len(places))
    return found
