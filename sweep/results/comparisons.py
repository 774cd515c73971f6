"""Rows of differences.parquet: what one axis does to the scores, from models that are equal in all else."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa

from sweep.results.schemas import DIFFERENCES, SUMMARY
from sweep.results.scores import compute_deviation, compute_mean, sum_squared_deviations
from sweep.results.slices import (
    BITS_PER_BYTE,
    HELD_OUT,
    MEASURES,
    SLICE_AXES,
    SUMMARISED_MEASURES,
    Measure,
    Row,
    list_seeds,
    normalise_axis_value,
    sort_values,
)
from sweep.results.tables import find_best_by
from sweep.text_format import format_columns

AXES = ("branch", "image_share", "instruction_share", "captions", "encoder", "freeze_encoder", "amount", "epochs")
RowsByAxisValue = dict[Any, Row]
"""Models that differ in one axis alone, by their value on it."""


@dataclass(frozen=True, slots=True)
class ScoreDifference:
    """The score at `second` less that at `first`, of the models of one size."""

    model: str
    axis: str
    first: Any
    second: Any
    measure: Measure
    difference: float
    stderr: float | None
    """By the spread over the pairs of cells; None for one pair."""
    test_stderr: float | None
    """Of one pair, by the test sets, taken as independent; the mean over the pairs."""
    pairs: int
    """Of cells: models of one cell at several numbers of epochs are no independent findings."""
    models: int


# Why: docs/decisions.md, D54
@dataclass(slots=True)
class PairedDifferences:
    """The pairs of models behind one difference."""

    by_cell: dict[Any, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[float | None] = field(default_factory=list)

    def add_pair(self, cell: Any, difference: float, error: float | None) -> None:
        """One pair of models; `cell` is what all pairs of the same two cells share."""
        self.by_cell[cell].append(difference)
        self.errors.append(error)

    def compute_statistics(self) -> tuple[float, float | None, float | None, int, int]:
        """Difference, its two standard errors, pairs of cells, pairs of models."""
        means = [compute_mean(same) for same in self.by_cell.values()]
        known = [error for error in self.errors if error is not None]
        spread = compute_deviation(means)
        stderr = None if spread is None else spread / math.sqrt(len(means))
        test_stderr = compute_mean(known) if len(known) == len(self.errors) else None
        return compute_mean(means), stderr, test_stderr, len(means), len(self.errors)


def compute_differences(rows: Sequence[Row]) -> list[ScoreDifference]:
    """Of every axis that models vary, every two of its values and every score; by model in the order of the rows."""
    scored = [row for row in rows if any(row.get(measure.column) is not None for measure in SUMMARISED_MEASURES)]
    identities = [
        (row["model"], list_seeds(row), *(normalise_axis_value(row, name) for name in SLICE_AXES)) for row in scored
    ]
    found: list[ScoreDifference] = []
    for axis in AXES:
        place = 2 + SLICE_AXES.index(axis)
        families: dict[tuple[Any, ...], RowsByAxisValue] = defaultdict(dict)
        for row, identity in zip(scored, identities, strict=True):
            if identity[place] is not None:
                families[(*identity[:place], *identity[place + 1 :])][identity[place]] = row
        found += iter_axis_differences(axis, families)
    return found


def iter_axis_differences(axis: str, families: dict[tuple[Any, ...], RowsByAxisValue]) -> Iterator[ScoreDifference]:
    """The differences of one axis."""
    epochs = 2 + SLICE_AXES.index("epochs") - (SLICE_AXES.index(axis) < SLICE_AXES.index("epochs"))
    found: dict[tuple[Any, ...], PairedDifferences] = defaultdict(PairedDifferences)
    for identity, family in families.items():
        cell = identity if axis == "epochs" else (*identity[:epochs], *identity[epochs + 1 :])
        for first, second in combinations(sort_values(family), 2):
            for measure, difference, error in iter_score_differences(family[first], family[second]):
                found[identity[0], first, second, measure].add_pair(cell, difference, error)
    for (model, first, second, measure), pairs in found.items():
        yield ScoreDifference(model, axis, first, second, measure, *pairs.compute_statistics())


def iter_score_differences(one: Row, other: Row) -> Iterator[tuple[Measure, float, float | None]]:
    """Each score that both have: the second less the first, and its standard error by the test sets."""
    for measure in SUMMARISED_MEASURES:
        low, high = one.get(measure.column), other.get(measure.column)
        if low is not None and high is not None:
            first, second = one.get(measure.stderr), other.get(measure.stderr)
            yield measure, high - low, None if first is None or second is None else math.hypot(first, second)


def build_differences_table(sweep: str, found: Sequence[ScoreDifference]) -> pa.Table:
    """As the file holds them."""
    rows = [
        {
            "sweep": sweep,
            "model": each.model,
            "axis": each.axis,
            "first": format_axis_value(each.first),
            "second": format_axis_value(each.second),
            "score": each.measure.name,
            "pairs": each.pairs,
            "models": each.models,
            "difference": each.difference,
            "stderr": each.stderr,
            "test_stderr": each.test_stderr,
        }
        for each in found
    ]
    return pa.Table.from_pylist(rows, schema=DIFFERENCES)


def format_axis_value(value: Any) -> str:
    """An axis' value: `80`, `0.1`, `true`, `siglip`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# What each axis does to the scores, in words and as a table: differences between models that are equal in all else.

PERCENTAGES = {"image_share", "instruction_share"}
MEASURE_NAMES = {HELD_OUT: "held-out vision", BITS_PER_BYTE: "bits/byte"}
AGAINST_LAST = {"branch"}
"""Axes whose values are held against the last one, images after all of the text; others against the first."""

LEGEND = (
    "Mean differences between cells that are equal in all else.\n"
    "±: standard error by the spread over the pairs; of one pair, by its test sets.\n"
)


def format_effects(found: Sequence[ScoreDifference]) -> list[str]:
    """A line for each axis that the scored models vary: the change of each score from its first value to its last.

    Models are compared in pairs that differ in this axis alone, so that a grid with holes misleads nobody.
    """
    models = list(dict.fromkeys(each.model for each in found))
    lines = []
    for model in models:
        of_model = [each for each in found if each.model == model]
        for axis in AXES:
            of_axis = [each for each in of_model if each.axis == axis]
            if of_axis:
                lines.append((f"{model}: " if len(models) > 1 else "") + format_axis_effect(axis, of_axis))
    return lines


def format_axis_effect(axis: str, found: Sequence[ScoreDifference]) -> str:
    """`branch 0 % -> 100 %: vision +0.120 ±0.010 (9 pairs)`."""
    values = sort_values({value for each in found for value in (each.first, each.second)})
    ends = {each.measure: each for each in found if (each.first, each.second) == (values[0], values[-1])}
    changes = [format_change(ends[measure]) for measure in MEASURES if measure in ends]
    names = f"{format_shown_value(axis, values[0])} -> {format_shown_value(axis, values[-1])}"
    return f"{axis.replace('_', ' ')} {names}: {', '.join(changes) or 'no two models to compare'}"


def format_change(each: ScoreDifference) -> str:
    """`vision +0.120 ±0.010 (9 pairs)`."""
    name = format_measure_title(each.measure)
    return f"{name} {format_signed_difference(each)} ({each.pairs} pair{'s' if each.pairs > 1 else ''})"


def format_signed_difference(each: ScoreDifference, sign: int = 1) -> str:
    """`+0.120 ±0.010`: by the spread over the pairs, or with one pair by the test sets."""
    error = each.stderr if each.stderr is not None else each.test_stderr
    value = sign * each.difference + 0.0
    return f"{value:+.3f}" if error is None else f"{value:+.3f} ±{error:.3f}"


def format_effects_table(found: Sequence[ScoreDifference]) -> str:
    """For each model and axis, every value of the axis held against one of them; empty where nothing compares."""
    models = list(dict.fromkeys(each.model for each in found))
    tables = []
    for model in models:
        for axis in AXES:
            of_axis = [each for each in found if each.model == model and each.axis == axis]
            if of_axis:
                tables.append(format_axis_table(f"{model} by " if len(models) > 1 else "", axis, of_axis))
    return "\n".join([*tables, LEGEND]) if tables else ""


def format_axis_table(prefix: str, axis: str, found: Sequence[ScoreDifference]) -> str:
    """A line for each value but the one that they are held against."""
    values = sort_values({value for each in found for value in (each.first, each.second)})
    fixed = values[-1] if axis in AGAINST_LAST else values[0]
    sign = -1 if axis in AGAINST_LAST else 1
    held = {
        (select_other_value(each, fixed), each.measure): each for each in found if fixed in (each.first, each.second)
    }
    measures = [measure for measure in MEASURES if any(key[1] == measure for key in held)]
    table = [
        [
            f"{prefix}{axis.replace('_', ' ')}, against {format_shown_value(axis, fixed)}",
            "pairs",
            *map(format_measure_title, measures),
        ]
    ]
    for value in values:
        cells = [held.get((value, measure)) for measure in measures]
        known = [each for each in cells if each is not None]
        if known:
            words = ["-" if each is None else format_signed_difference(each, sign) for each in cells]
            table.append([format_shown_value(axis, value), str(max(each.pairs for each in known)), *words])
    return "\n".join(format_columns(table)) + "\n"


def select_other_value(each: ScoreDifference, fixed: Any) -> Any:
    """The value that is held against `fixed`."""
    return each.second if each.first == fixed else each.first


def format_measure_title(measure: Measure) -> str:
    """A score in words."""
    return MEASURE_NAMES.get(measure, measure.title.lower())


def format_shown_value(axis: str, value: Any) -> str:
    """An axis' value: shares in percent."""
    if axis in PERCENTAGES:
        return f"{100 * value:g} %"
    return f"{value:g} %" if axis == "branch" else format_axis_value(value)


# At how many epochs the cells of a sweep are best, as plain text.


def format_best_epochs(rows: Sequence[Row]) -> str:
    """How many cells have their best score at each number of epochs, by each score.

    Only of cells that are finished and were fine-tuned for several numbers; empty where there are none.
    """
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    whole = [models for models in cells.values() if len(models) > 1 and all(row["state"] == "done" for row in models)]
    counts = {
        measure: Counter(best["epochs"] for models in whole if (best := find_best_by(measure, models)) is not None)
        for measure in MEASURES
    }
    found = {measure: counted for measure, counted in counts.items() if counted}
    if not found:
        return ""
    head = ["epochs: cells that are best there", *map(format_measure_title, found)]
    numbers = sorted({row["epochs"] for models in whole for row in models})
    lines = [[str(epochs), *(str(counted[epochs]) for counted in found.values())] for epochs in numbers]
    return "\n".join(format_columns([head, *lines])) + "\n"


# Rows of summary.parquet: mean scores by branch point, image share, instruction share and epochs, with spreads.

STUDY_AXES = ("branch", "image_share", "instruction_share", "epochs")
"""What the study asks about; a row is a mean over those of them that it does not tell apart."""
SETTING_AXES = tuple(axis for axis in SLICE_AXES if axis not in STUDY_AXES)
"""What rows always tell apart, as the model: no mean over encoders or amounts of training."""
GROUPINGS = (
    ("branch",),
    ("image_share",),
    ("instruction_share",),
    ("epochs",),
    ("branch", "image_share"),
    ("branch", "image_share", "instruction_share"),
    STUDY_AXES,
)
COMPLETE = {"vision": "vision_complete", "text": "text_complete"}
Key = tuple[Any, ...]


def build_points_table(sweep: str, rows: Sequence[Row]) -> pa.Table:
    """By grouping, in the order of results.parquet. Points without a score yet have no row.

    Points by all four axes are there where they have several seeds; with one they are results.parquet itself.
    """
    settings = [(row["model"], *(normalise_axis_value(row, axis) for axis in SETTING_AXES)) for row in rows]
    found = []
    for grouping in GROUPINGS:
        groups: dict[Key, list[Row]] = defaultdict(list)
        for row, setting in zip(rows, settings, strict=True):
            if is_in_grouping(row, grouping):
                groups[(*setting, *(row[axis] for axis in grouping))].append(row)
        for key, members in groups.items():
            if grouping != STUDY_AXES or len(members) > 1:
                named = dict(zip(("model", *SETTING_AXES, *grouping), key, strict=True))
                found += [
                    {"sweep": sweep, "axes": " ".join(grouping), **named, **values}
                    for values in iter_score_columns(members)
                ]
    return pa.Table.from_pylist(found, schema=SUMMARY)


def is_in_grouping(row: Row, grouping: Sequence[str]) -> bool:
    """Models without images have no instruction share; only beside their image share does it stand for them."""
    return "instruction_share" not in grouping or "image_share" in grouping or row.get("image_share") != 0


def iter_score_columns(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The columns of each score that a point has."""
    for measure in SUMMARISED_MEASURES:
        scored = [row for row in rows if row[measure.column] is not None]
        if scored:
            yield {"models": len(rows), **build_point_columns(scored, measure)}


def build_point_columns(rows: Sequence[Row], measure: Measure) -> dict[str, Any]:
    """One score of the models at one point."""
    values = [row[measure.column] for row in rows]
    errors = [row[measure.stderr] for row in rows if measure.stderr and row[measure.stderr] is not None]
    complete = COMPLETE.get(measure.name)
    return {
        "score": measure.name,
        "n": len(values),
        "complete": all(row[complete] for row in rows) if complete else None,
        "mean": compute_mean(values),
        "std": compute_deviation(values),
        "lowest": min(values),
        "highest": max(values),
        "test_stderr": compute_mean(errors) if len(errors) == len(rows) else None,
        "seeds": len({list_seeds(row) for row in rows}),
        "seed_std": compute_seed_deviation(rows, measure),
    }


def compute_seed_deviation(rows: Sequence[Row], measure: Measure) -> float | None:
    """Standard deviation over the seeds of models that are equal in all else, pooled over such models.

    sqrt(sum of squared deviations / sum of (seeds - 1)); None where no model has a second seed.
    """
    same: dict[Key, dict[Key, float]] = defaultdict(dict)
    if len({list_seeds(row) for row in rows}) > 1:
        for row in rows:
            same[tuple(normalise_axis_value(row, axis) for axis in SLICE_AXES)][list_seeds(row)] = row[measure.column]
    freedom = sum(len(by_seed) - 1 for by_seed in same.values())
    return (
        math.sqrt(math.fsum(sum_squared_deviations(by_seed.values()) for by_seed in same.values()) / freedom)
        if freedom
        else None
    )
