"""Rows of differences.parquet: what one axis does to the scores, from models that are equal in all else."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow as pa

from sweep.results.slices import SLICE_AXES, SUMMARISED, Measure, Row, axis_value, in_order, seeds_of
from sweep.results.spread import deviation, mean
from sweep.results.summary_schemas import DIFFERENCES

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
