"""Which rows of results.parquet a figure shows: a slice through the grid, every axis held but two, seeds averaged."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

IMAGE_AXES = ("instruction_share", "captions", "encoder", "freeze_encoder")
"""Without meaning where the image share is 0: such a row belongs to every slice."""
SLICE_AXES = ("branch", "image_share", *IMAGE_AXES, "amount", "text_multiplier", "lr_at_branch", "epochs", "overrides")
"""All axes but model (a figure each) and seeds (averaged)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a panel's y axis shows. `higher_is_better` is False for losses."""

    column: str
    title: str
    stderr: str = ""
    chance: str = ""
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        """As in the column `score` of the summaries: vision, heldout_vision, text, bits_per_byte, vision_z."""
        return self.column.removesuffix("_score").removesuffix("_stable")


VISION = Measure("vision_stable_score", "Vision", "vision_stable_stderr", "vision_chance")
HELD_OUT = Measure(
    "heldout_vision_stable_score", "Held-out vision", "heldout_vision_stable_stderr", "heldout_vision_chance"
)
TEXT = Measure("text_stable_score", "Text", "text_stable_stderr", "text_chance")
BITS_PER_BYTE = Measure("bits_per_byte", "Held-out text loss", higher_is_better=False)
MEASURES = (VISION, HELD_OUT, TEXT, BITS_PER_BYTE)
Z_SCORE = Measure("vision_z_score", "Vision z-score")
SUMMARISED_MEASURES = (*MEASURES, Z_SCORE)
"""What the summaries have; a z-score depends on the other models, so no figure shows it."""


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """Mean over the seeds at one place. `error` is the seeds' standard deviation if there are several seeds, else the
    evaluation's standard error; None where neither is known."""

    x: Any
    y: float
    error: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class GridSlice:
    """Lines of one panel: series value -> points in order of x, and the axes' values that were held."""

    lines: Mapping[Any, Sequence[PlotPoint]]
    held: Mapping[str, Any]
    chance: float | None
    """Mean chance level of the measure; None where it has none or the rows differ in it."""

    @property
    def x_values(self) -> list[Any]:
        return sort_values({point.x for points in self.lines.values() for point in points})


def build_slice(rows: Sequence[Row], measure: Measure, x: str, series: str) -> GridSlice:
    """The rows of one model that show `measure` against `x` with a line for each value of `series`.

    Every other axis is held at its most frequent value among the scored rows; ties go to the best row's value.
    """
    scored = [row for row in rows if row.get(measure.column) is not None and row.get(x) is not None]
    held = select_held_values(scored, [axis for axis in SLICE_AXES if axis not in {x, series}])
    shown = [row for row in scored if is_in_slice(row, held)]
    groups: dict[tuple[Any, Any], list[Row]] = {}
    for row in shown:
        groups.setdefault((row[series], row[x]), []).append(row)
    lines: dict[Any, list[PlotPoint]] = {value: [] for value in sort_values({value for value, _ in groups})}
    for value, place in sorted(groups, key=lambda group: make_sort_key(group[1])):
        lines[value].append(build_plot_point(place, groups[value, place], measure))
    return GridSlice(lines=lines, held=held, chance=find_common_chance(shown, measure))


def build_plot_point(x: Any, rows: Sequence[Row], measure: Measure) -> PlotPoint:
    """One place of one line: rows that differ in seed only."""
    by_seed: dict[Any, list[float]] = {}
    for row in rows:
        by_seed.setdefault(list_seeds(row), []).append(row[measure.column])
    values = [statistics.fmean(same) for same in by_seed.values()]
    error = statistics.stdev(values) if len(values) > 1 else rows[0].get(measure.stderr)
    return PlotPoint(x, statistics.fmean(values), error, len(values))


def select_held_values(rows: Sequence[Row], axes: Iterable[str]) -> dict[str, Any]:
    """The value at which each axis is held."""
    best = find_best_row(rows)
    held: dict[str, Any] = {}
    for axis in axes:
        counts = Counter(normalise_axis_value(row, axis) for row in rows if is_meaningful_axis(row, axis))
        if counts:
            most = max(counts.values())
            candidates = [value for value, count in counts.items() if count == most]
            wanted = normalise_axis_value(best, axis) if best else None
            held[axis] = wanted if wanted in candidates else candidates[0]
    return held


def find_best_row(rows: Iterable[Row]) -> Row | None:
    """The row with the best score: vision first, else text, else the lowest loss; the first of equals."""
    rows = list(rows)
    for measure in (VISION, HELD_OUT, TEXT, BITS_PER_BYTE):
        scored = [row for row in rows if row.get(measure.column) is not None]
        if scored:
            sign = 1 if measure.higher_is_better else -1
            return max(scored, key=lambda row: sign * row[measure.column])
    return None


def is_in_slice(row: Row, held: Mapping[str, Any]) -> bool:
    """Whether a row has the held value on every axis that has a meaning for it."""
    return all(
        normalise_axis_value(row, axis) == value for axis, value in held.items() if is_meaningful_axis(row, axis)
    )


def is_meaningful_axis(row: Row, axis: str) -> bool:
    """Axes of images say nothing where there are none."""
    return axis not in IMAGE_AXES or row.get("image_share") != 0


def normalise_axis_value(row: Row, axis: str) -> Any:
    """Hashable. Seeds among the overrides (`finetune.seed`) are left out, as the axis `seed` is."""
    value = row.get(axis)
    if axis == "overrides":
        return tuple(pair for pair in value or () if not is_seed(pair[0]))
    return value


def list_seeds(row: Row) -> tuple[Any, ...]:
    """What tells a repetition from its siblings."""
    return row.get("seed"), *(value for name, value in row.get("overrides") or () if is_seed(name))


def is_seed(name: str) -> bool:
    """Whether a dotted setting is a seed."""
    return name.rpartition(".")[2] == "seed"


def find_common_chance(rows: Sequence[Row], measure: Measure) -> float | None:
    """The chance level that all rows share, if they do."""
    levels = {round(row[measure.chance], 9) for row in rows if measure.chance and row.get(measure.chance) is not None}
    return levels.pop() if len(levels) == 1 else None


def is_axis_varied(rows: Sequence[Row], axis: str) -> bool:
    """Whether the rows have several values of an axis."""
    return len({normalise_axis_value(row, axis) for row in rows if row.get(axis) is not None}) > 1


def make_sort_key(value: Any) -> tuple[bool, Any]:
    """Sort key: numbers by size, words by letters, absent ones last."""
    return value is None, value if isinstance(value, (int, float)) else str(value)


def sort_values(values: Iterable[Any]) -> list[Any]:
    """By `make_sort_key`."""
    return sorted(values, key=make_sort_key)
