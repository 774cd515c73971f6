"""Rows of differences.parquet: what one axis does to the scores, from models that are equal in all else."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa

from sweep.results.schemas import DIFFERENCES, SUMMARY
from sweep.results.scores import deviation, mean, squares
from sweep.results.slices import (
    BITS,
    HELD_OUT,
    MEASURES,
    SLICE_AXES,
    SUMMARISED,
    Measure,
    Row,
    axis_value,
    in_order,
    seeds_of,
)
from sweep.results.tables import best_by
from sweep.text_format import columns

AXES = ("branch", "image_share", "instruction_share", "captions", "encoder", "freeze_encoder", "amount", "epochs")
Family = dict[Any, Row]
"""Models that differ in one axis alone, by their value on it."""


@dataclass(frozen=True, slots=True)
class Difference:
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


@dataclass(slots=True)
class Pairs:
    """The pairs of models behind one difference."""

    by_cell: dict[Any, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[float | None] = field(default_factory=list)

    def add(self, cell: Any, difference: float, error: float | None) -> None:
        """One pair of models; `cell` is what all pairs of the same two cells share."""
        self.by_cell[cell].append(difference)
        self.errors.append(error)

    def summed(self) -> tuple[float, float | None, float | None, int, int]:
        """Difference, its two standard errors, pairs of cells, pairs of models."""
        means = [mean(same) for same in self.by_cell.values()]
        known = [error for error in self.errors if error is not None]
        spread = deviation(means)
        stderr = None if spread is None else spread / math.sqrt(len(means))
        test_stderr = mean(known) if len(known) == len(self.errors) else None
        return mean(means), stderr, test_stderr, len(means), len(self.errors)


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Of every axis that models vary, every two of its values and every score; by model in the order of the rows."""
    scored = [row for row in rows if any(row.get(measure.column) is not None for measure in SUMMARISED)]
    identities = [(row["model"], seeds_of(row), *(axis_value(row, name) for name in SLICE_AXES)) for row in scored]
    found: list[Difference] = []
    for axis in AXES:
        place = 2 + SLICE_AXES.index(axis)
        families: dict[tuple[Any, ...], Family] = defaultdict(dict)
        for row, identity in zip(scored, identities, strict=True):
            if identity[place] is not None:
                families[(*identity[:place], *identity[place + 1 :])][identity[place]] = row
        found += along(axis, families)
    return found


def along(axis: str, families: dict[tuple[Any, ...], Family]) -> Iterator[Difference]:
    """The differences of one axis."""
    epochs = 2 + SLICE_AXES.index("epochs") - (SLICE_AXES.index(axis) < SLICE_AXES.index("epochs"))
    found: dict[tuple[Any, ...], Pairs] = defaultdict(Pairs)
    for identity, family in families.items():
        cell = identity if axis == "epochs" else (*identity[:epochs], *identity[epochs + 1 :])
        for first, second in combinations(in_order(family), 2):
            for measure, difference, error in compared(family[first], family[second]):
                found[identity[0], first, second, measure].add(cell, difference, error)
    for (model, first, second, measure), pairs in found.items():
        yield Difference(model, axis, first, second, measure, *pairs.summed())


def compared(one: Row, other: Row) -> Iterator[tuple[Measure, float, float | None]]:
    """Each score that both have: the second less the first, and its standard error by the test sets."""
    for measure in SUMMARISED:
        low, high = one.get(measure.column), other.get(measure.column)
        if low is not None and high is not None:
            first, second = one.get(measure.stderr), other.get(measure.stderr)
            yield measure, high - low, None if first is None or second is None else math.hypot(first, second)


def differences_table(sweep: str, found: Sequence[Difference]) -> pa.Table:
    """As the file holds them."""
    rows = [
        {
            "sweep": sweep,
            "model": each.model,
            "axis": each.axis,
            "first": value_text(each.first),
            "second": value_text(each.second),
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


def value_text(value: Any) -> str:
    """An axis' value: `80`, `0.1`, `true`, `siglip`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# What each axis does to the scores, in words and as a table: differences between models that are equal in all else.

PERCENTAGES = {"image_share", "instruction_share"}
NAMES = {HELD_OUT: "held-out vision", BITS: "bits/byte"}
AGAINST_LAST = {"branch"}
"""Axes whose values are held against the last one, images after all of the text; others against the first."""

LEGEND = (
    "Mean differences between cells that are equal in all else.\n"
    "±: standard error by the spread over the pairs; of one pair, by its test sets.\n"
)


def effects(found: Sequence[Difference]) -> list[str]:
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
                lines.append((f"{model}: " if len(models) > 1 else "") + effect(axis, of_axis))
    return lines


def effect(axis: str, found: Sequence[Difference]) -> str:
    """`branch 0 % -> 100 %: vision +0.120 ±0.010 (9 pairs)`."""
    values = in_order({value for each in found for value in (each.first, each.second)})
    ends = {each.measure: each for each in found if (each.first, each.second) == (values[0], values[-1])}
    changes = [change(ends[measure]) for measure in MEASURES if measure in ends]
    names = f"{shown(axis, values[0])} -> {shown(axis, values[-1])}"
    return f"{axis.replace('_', ' ')} {names}: {', '.join(changes) or 'no two models to compare'}"


def change(each: Difference) -> str:
    """`vision +0.120 ±0.010 (9 pairs)`."""
    name = title(each.measure)
    return f"{name} {signed(each)} ({each.pairs} pair{'s' if each.pairs > 1 else ''})"


def signed(each: Difference, sign: int = 1) -> str:
    """`+0.120 ±0.010`: by the spread over the pairs, or with one pair by the test sets."""
    error = each.stderr if each.stderr is not None else each.test_stderr
    value = sign * each.difference + 0.0
    return f"{value:+.3f}" if error is None else f"{value:+.3f} ±{error:.3f}"


def effects_table(found: Sequence[Difference]) -> str:
    """For each model and axis, every value of the axis held against one of them; empty where nothing compares."""
    models = list(dict.fromkeys(each.model for each in found))
    tables = []
    for model in models:
        for axis in AXES:
            of_axis = [each for each in found if each.model == model and each.axis == axis]
            if of_axis:
                tables.append(axis_table(f"{model} by " if len(models) > 1 else "", axis, of_axis))
    return "\n".join([*tables, LEGEND]) if tables else ""


def axis_table(prefix: str, axis: str, found: Sequence[Difference]) -> str:
    """A line for each value but the one that they are held against."""
    values = in_order({value for each in found for value in (each.first, each.second)})
    fixed = values[-1] if axis in AGAINST_LAST else values[0]
    sign = -1 if axis in AGAINST_LAST else 1
    held = {(other(each, fixed), each.measure): each for each in found if fixed in (each.first, each.second)}
    measures = [measure for measure in MEASURES if any(key[1] == measure for key in held)]
    table = [[f"{prefix}{axis.replace('_', ' ')}, against {shown(axis, fixed)}", "pairs", *map(title, measures)]]
    for value in values:
        cells = [held.get((value, measure)) for measure in measures]
        known = [each for each in cells if each is not None]
        if known:
            words = ["-" if each is None else signed(each, sign) for each in cells]
            table.append([shown(axis, value), str(max(each.pairs for each in known)), *words])
    return "\n".join(columns(table)) + "\n"


def other(each: Difference, fixed: Any) -> Any:
    """The value that is held against `fixed`."""
    return each.second if each.first == fixed else each.first


def title(measure: Measure) -> str:
    """A score in words."""
    return NAMES.get(measure, measure.title.lower())


def shown(axis: str, value: Any) -> str:
    """An axis' value: shares in percent."""
    if axis in PERCENTAGES:
        return f"{100 * value:g} %"
    return f"{value:g} %" if axis == "branch" else value_text(value)


# At how many epochs the cells of a sweep are best, as plain text.


def best_epochs(rows: Sequence[Row]) -> str:
    """How many cells have their best score at each number of epochs, by each score.

    Only of cells that are finished and were fine-tuned for several numbers; empty where there are none.
    """
    cells: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["cell"]].append(row)
    whole = [models for models in cells.values() if len(models) > 1 and all(row["state"] == "done" for row in models)]
    counts = {
        measure: Counter(best["epochs"] for models in whole if (best := best_by(measure, models)) is not None)
        for measure in MEASURES
    }
    found = {measure: counted for measure, counted in counts.items() if counted}
    if not found:
        return ""
    head = ["epochs: cells that are best there", *map(title, found)]
    numbers = sorted({row["epochs"] for models in whole for row in models})
    lines = [[str(epochs), *(str(counted[epochs]) for counted in found.values())] for epochs in numbers]
    return "\n".join(columns([head, *lines])) + "\n"


# Rows of summary.parquet: mean scores by branch point, image share, instruction share and epochs, with spreads.

STUDY_AXES = ("branch", "image_share", "instruction_share", "epochs")
"""What the study asks about; a row is a mean over those of them that it does not tell apart."""
SETTINGS = tuple(axis for axis in SLICE_AXES if axis not in STUDY_AXES)
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


def points_table(sweep: str, rows: Sequence[Row]) -> pa.Table:
    """By grouping, in the order of results.parquet. Points without a score yet have no row.

    Points by all four axes are there where they have several seeds; with one they are results.parquet itself.
    """
    settings = [(row["model"], *(axis_value(row, axis) for axis in SETTINGS)) for row in rows]
    found = []
    for grouping in GROUPINGS:
        groups: dict[Key, list[Row]] = defaultdict(list)
        for row, setting in zip(rows, settings, strict=True):
            if belongs(row, grouping):
                groups[(*setting, *(row[axis] for axis in grouping))].append(row)
        for key, members in groups.items():
            if grouping != STUDY_AXES or len(members) > 1:
                named = dict(zip(("model", *SETTINGS, *grouping), key, strict=True))
                found += [
                    {"sweep": sweep, "axes": " ".join(grouping), **named, **values} for values in scores_of(members)
                ]
    return pa.Table.from_pylist(found, schema=SUMMARY)


def belongs(row: Row, grouping: Sequence[str]) -> bool:
    """Models without images have no instruction share; only beside their image share does it stand for them."""
    return "instruction_share" not in grouping or "image_share" in grouping or row.get("image_share") != 0


def scores_of(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The columns of each score that a point has."""
    for measure in SUMMARISED:
        scored = [row for row in rows if row[measure.column] is not None]
        if scored:
            yield {"models": len(rows), **point_values(scored, measure)}


def point_values(rows: Sequence[Row], measure: Measure) -> dict[str, Any]:
    """One score of the models at one point."""
    values = [row[measure.column] for row in rows]
    errors = [row[measure.stderr] for row in rows if measure.stderr and row[measure.stderr] is not None]
    complete = COMPLETE.get(measure.name)
    return {
        "score": measure.name,
        "n": len(values),
        "complete": all(row[complete] for row in rows) if complete else None,
        "mean": mean(values),
        "std": deviation(values),
        "lowest": min(values),
        "highest": max(values),
        "test_stderr": mean(errors) if len(errors) == len(rows) else None,
        "seeds": len({seeds_of(row) for row in rows}),
        "seed_std": seed_deviation(rows, measure),
    }


def seed_deviation(rows: Sequence[Row], measure: Measure) -> float | None:
    """Standard deviation over the seeds of models that are equal in all else, pooled over such models.

    sqrt(sum of squared deviations / sum of (seeds - 1)); None where no model has a second seed.
    """
    same: dict[Key, dict[Key, float]] = defaultdict(dict)
    if len({seeds_of(row) for row in rows}) > 1:
        for row in rows:
            same[tuple(axis_value(row, axis) for axis in SLICE_AXES)][seeds_of(row)] = row[measure.column]
    freedom = sum(len(by_seed) - 1 for by_seed in same.values())
    return math.sqrt(math.fsum(squares(by_seed.values()) for by_seed in same.values()) / freedom) if freedom else None
