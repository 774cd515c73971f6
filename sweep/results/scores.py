"""Scores of tasks in a result.json, and what is computed of them: stable scores and z-scores (docs/results.md)."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.printable import render_line
from sweep.catalog.chance import load_chances
from sweep.results.evidence import parse_number, parse_whole_number
from sweep.results.intervals import compute_wilson_interval, merge_intervals


@dataclass(frozen=True, slots=True)
class MeasuredTaskScore:
    """One task of an evaluation. `score`, `stderr` and `chance` are fractions; for kind loss bits per byte."""

    task: str
    kind: str
    score: float
    stderr: float | None
    chance: float | None
    """From the chance table; for a task that is not in it, from its evaluation."""
    n: int | None
    """Examples."""
    low: float | None = None
    """95 % interval of the score, from `low` to `high`; None for kind loss and where the number of examples is not
    known."""
    high: float | None = None
    clusters: int | None = None
    """Images or passages that the examples are about; None: not known, examples are taken as independent."""
    whole: bool = True
    """Whether all parts that the chance table names are in it: three splits of POPE; RefCOCO, RefCOCO+ and RefCOCOg."""

    @property
    def held_out(self) -> bool:
        """Whether its data differ in kind from the training data, by its name (`shapes_heldout`, `x_held_out`)."""
        return "heldout" in self.task.replace("_", "").replace("-", "")


SCORE_FIELDS = ("task", "kind", "score", "stderr", "chance", "n", "low", "high", "clusters")
"""Fields of an entry in the column `scores`."""


@dataclass(frozen=True, slots=True)
class StableScore:
    """Mean over tasks of (score - chance), as a fraction; with standard error, mean accuracy and mean chance level."""

    score: float
    stderr: float | None
    accuracy: float
    chance: float
    tasks: tuple[str, ...]
    """Names of the tasks in the mean."""
    whole: bool
    """Whether each of these tasks has all its parts."""
    low: float | None = None
    """95 % interval; None where a task has none."""
    high: float | None = None


def parse_task_scores(result: Mapping[str, Any]) -> list[MeasuredTaskScore]:
    """The entries of a result's `scores`, by name; those without a numeric score are left out."""
    given = result.get("scores")
    entries = sorted(given.items()) if isinstance(given, dict) else []
    found = [parse_task_score(render_line(name), entry) for name, entry in entries if isinstance(entry, dict)]
    return [task for task in found if task is not None]


def parse_task_score(name: str, entry: Mapping[str, Any]) -> MeasuredTaskScore | None:
    """One entry of `scores`; None without a numeric score."""
    score = parse_number(entry.get("score"))
    if score is None:
        return None
    kind = str(entry.get("kind", ""))
    known = load_chances().find_task(name, kind)
    clustered = parse_number(entry.get("clustered_stderr"))
    stderr = parse_number(entry.get("stderr")) if clustered is None else clustered
    n, clusters = parse_whole_number(entry.get("n")), parse_whole_number(entry.get("clusters"))
    low, high = compute_task_interval(kind, score, stderr, n, clusters)
    return MeasuredTaskScore(
        task=name,
        kind=kind,
        score=score,
        stderr=stderr,
        chance=known.chance if known else parse_number(entry.get("chance")),
        n=n,
        low=low,
        high=high,
        clusters=clusters,
        whole=has_parts(entry.get("metrics"), known.parts if known else ()),
    )


def compute_task_interval(
    kind: str, score: float, stderr: float | None, n: int | None, clusters: int | None
) -> tuple[float, float] | tuple[None, None]:
    """Wilson's interval of a fraction (`compute_wilson_interval`); None for a loss or without a number of examples."""
    images = n if clusters is None else clusters
    if kind == "loss" or n is None or images is None or min(n, images) < 1 or not 0 <= score <= 1:
        return None, None
    return compute_wilson_interval(score, stderr, n, clusters)


def has_parts(metrics: Any, parts: Iterable[str]) -> bool:
    """Whether a result's metrics have the accuracy of every part."""
    return all(isinstance(metrics, dict) and f"accuracy/{part}" in metrics for part in parts)


# Why: docs/decisions.md, D53
def select_entering_tasks(tasks: Sequence[MeasuredTaskScore], score: str) -> list[MeasuredTaskScore]:
    """The tasks of a group whose mean is the stable score `vision` or `text`: those of the chance table, if any.

    Else all tasks with a chance level.
    """
    # A task beyond the study's does not change the study's score.
    counted = load_chances().list_counted_tasks(score)
    known = [task for task in tasks if task.task in counted]
    return known or [task for task in tasks if task.chance is not None]


def compute_stable_score(tasks: Iterable[MeasuredTaskScore]) -> StableScore | None:
    """The stable score of the tasks that have a chance level; None if no task has one.

    The standard error assumes independent tasks: sqrt(sum of squares) / number of tasks; None if a task lacks its own.
    """
    scored = [(task, task.chance) for task in tasks if task.chance is not None]
    if not scored:
        return None
    accuracy = sum(task.score for task, _ in scored) / len(scored)
    chance = sum(chance for _, chance in scored) / len(scored)
    errors = [task.stderr for task, _ in scored if task.stderr is not None]
    intervals = [(task.low, task.high) for task, _ in scored if task.low is not None and task.high is not None]
    low = high = None
    if len(intervals) == len(scored):
        low, high = merge_intervals([task.score for task, _ in scored], intervals)
    return StableScore(
        score=accuracy - chance,
        stderr=math.sqrt(sum(error**2 for error in errors)) / len(scored) if len(errors) == len(scored) else None,
        accuracy=accuracy,
        chance=chance,
        tasks=tuple(task.task for task, _ in scored),
        whole=all(task.whole for task, _ in scored),
        low=None if low is None else low - chance,
        high=None if high is None else high - chance,
    )


def group_tasks(tasks: Sequence[MeasuredTaskScore]) -> dict[str, list[MeasuredTaskScore]]:
    """The tasks that each score is the mean over: vision, heldout_vision, text and bits_per_byte."""
    vision = [task for task in tasks if task.kind == "vision" and not task.held_out]
    return {
        "vision": select_entering_tasks(vision, "vision"),
        "heldout_vision": [task for task in tasks if task.kind == "vision" and task.held_out],
        "text": select_entering_tasks([task for task in tasks if task.kind == "text"], "text"),
        "bits_per_byte": [task for task in tasks if task.kind == "loss"],
    }


def build_score_columns(tasks: Sequence[MeasuredTaskScore]) -> dict[str, Any]:
    """The score columns of results.parquet, except z-scores, which compare models."""
    groups = group_tasks(tasks)
    losses = [task.score for task in groups.pop("bits_per_byte")]
    values: dict[str, Any] = {"scores": [{name: getattr(task, name) for name in SCORE_FIELDS} for task in tasks]}
    for prefix, group in groups.items():
        values |= build_stable_score_columns(prefix, compute_stable_score(group))
    if losses:
        values["bits_per_byte"] = sum(losses) / len(losses)
    return values


def build_stable_score_columns(prefix: str, stable: StableScore | None) -> dict[str, Any]:
    """The columns of one stable score. `complete`: its tasks are those of the chance table, each with all parts."""
    if stable is None:
        return {}
    values: dict[str, Any] = {
        f"{prefix}_stable_score": stable.score,
        f"{prefix}_stable_stderr": stable.stderr,
        f"{prefix}_accuracy": stable.accuracy,
        f"{prefix}_chance": stable.chance,
        f"{prefix}_low": stable.low,
        f"{prefix}_high": stable.high,
    }
    if wanted := load_chances().list_counted_tasks(prefix):
        complete = stable.whole and set(stable.tasks) == set(wanted)
        values |= {f"{prefix}_tasks": list(stable.tasks), f"{prefix}_complete": complete}
    return values


# Mean and spread. `statistics` computes in fractions and takes some ten times as long.


def compute_mean(values: Collection[float]) -> float:
    """Mean of at least one value."""
    return math.fsum(values) / len(values)


def sum_squared_deviations(values: Collection[float]) -> float:
    """Sum of the squared distances to the mean."""
    centre = compute_mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


def compute_deviation(values: Collection[float]) -> float | None:
    """Standard deviation of a sample (divided by n - 1); None for fewer than two values."""
    return math.sqrt(sum_squared_deviations(values) / (len(values) - 1)) if len(values) > 1 else None


# The z-score of vlm-evaluation (scripts/compute_z_scores.py): how far a model is from the mean of all models.
#
# For each metric, z = (x - mean) / standard deviation, over all models that have the metric; the deviation is that of a
# population (divided by n). A model's z-score is the mean of z over the eight metrics of the chance table.
# As in vlm-evaluation, a metric of a single model has deviation 1, and metrics that no model has are left out.
# Unlike there, a metric in which all models are equal counts z = 0 (there: division by zero), and a model that lacks a
# metric of another model has no z-score, since means over different metrics cannot be compared.

Metrics = Mapping[str, float]


def extract_z_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the z-score in a result.json, by the name that vlm-evaluation gives them; only finite numbers."""
    scores = result.get("scores")
    if not isinstance(scores, dict):
        return {}
    found: dict[str, float] = {}
    for name, wanted in load_chances().z_score.items():
        entry = scores.get(wanted.task)
        values = entry if wanted.metric == "score" else entry.get("metrics") if isinstance(entry, dict) else None
        value = parse_number(values.get(wanted.metric)) if isinstance(values, dict) else None
        if value is not None and math.isfinite(value):
            found[name] = value
    return found


def compute_z_scores(models: Mapping[str, Metrics]) -> dict[str, float]:
    """z-score by model, in standard deviations. Models that lack a metric of another model are left out."""
    names = [name for name in load_chances().z_score if any(name in metrics for metrics in models.values())]
    whole = {model: metrics for model, metrics in models.items() if names and len(metrics) == len(names)}
    moments = {name: compute_moments([each[name] for each in models.values() if name in each]) for name in names}
    return {
        model: compute_mean([(metrics[name] - centre) / width for name, (centre, width) in moments.items()])
        for model, metrics in whole.items()
    }


def compute_moments(values: Collection[float]) -> tuple[float, float]:
    """Mean, and standard deviation of a population; 1 where all values are equal."""
    centre, width = compute_mean(values), math.sqrt(sum_squared_deviations(values) / len(values))
    same = width <= 1e-12 * max(1.0, abs(centre))  # rounding alone: 0.1 three times has a deviation of 1e-17
    return centre, 1.0 if same else width
