"""What each axis does to the scores, in words: mean differences between models that are equal in all else."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from sweep.results.slices import BITS, HELD_OUT, MEASURES, SLICE_AXES, Measure, Row, axis_value, in_order, seeds_of

AXES = ("branch", "image_share", "instruction_share", "captions", "encoder", "freeze_encoder", "amount", "epochs")
PERCENTAGES = {"image_share", "instruction_share"}
NAMES = {HELD_OUT: "held-out vision", BITS: "bits/byte"}


def effects(rows: Sequence[Row]) -> list[str]:
    """A line for each axis that the scored models vary: the change of each score from its first value to its last.

    Models are compared in pairs that differ in this axis alone, so that a grid with holes misleads nobody.
    """
    lines = []
    for axis in AXES:
        values = in_order({axis_value(row, axis) for row in rows if row.get(axis) is not None})
        if len(values) < 2:
            continue
        changes = [words for measure in MEASURES if (words := change(rows, axis, values[0], values[-1], measure))]
        if changes:
            ends = f"{shown(axis, values[0])} -> {shown(axis, values[-1])}"
            lines.append(f"{axis.replace('_', ' ')} {ends}: {', '.join(changes)}")
    return lines


def change(rows: Sequence[Row], axis: str, first: Any, last: Any, measure: Measure) -> str:
    """`vision +0.120 (9 pairs)`; empty where no two models can be compared."""
    found = list(differences(rows, axis, first, last, measure))
    if not found:
        return ""
    name = NAMES.get(measure, measure.title.lower())
    return f"{name} {statistics.fmean(found):+.3f} ({len(found)} pair{'s' if len(found) > 1 else ''})"


def differences(rows: Sequence[Row], axis: str, first: Any, last: Any, measure: Measure) -> Iterator[float]:
    """The score at `last` less that at `first`, of each pair of models that differ in `axis` alone."""
    partners = {others(row, axis): row for row in rows if axis_value(row, axis) == first}
    for row in rows:
        partner = partners.get(others(row, axis)) if axis_value(row, axis) == last else None
        if partner is not None and row.get(measure.column) is not None and partner.get(measure.column) is not None:
            yield row[measure.column] - partner[measure.column]


def others(row: Row, axis: str) -> tuple[Any, ...]:
    """All that a model is but for `axis`."""
    names = [name for name in SLICE_AXES if name != axis]
    return row.get("model"), seeds_of(row), *(axis_value(row, name) for name in names)


def shown(axis: str, value: Any) -> str:
    """An axis' value: shares in percent."""
    if axis in PERCENTAGES:
        return f"{100 * value:g} %"
    if axis == "branch":
        return f"{value:g} %"
    return f"{value:g}" if isinstance(value, float) else str(value)
