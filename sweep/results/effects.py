"""What each axis does to the scores, in words and as a table: differences between models that are equal in all else."""

from collections.abc import Sequence
from typing import Any

from sweep.results.comparisons import AXES, Difference, value_text
from sweep.results.slices import BITS, HELD_OUT, MEASURES, Measure, in_order
from sweep.text_format import columns

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
