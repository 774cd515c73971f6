"""Slices of the grid for figures: two axes vary, all others are held at one value, seeds are averaged."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

IMAGE_AXES = ("instruction_share", "captions", "encoder", "freeze_encoder")
"""Axes without meaning where the image share is 0: such a row belongs to a slice at any value of them."""
SLICE_AXES = ("branch", "image_share", *IMAGE_AXES, "amount", "text_multiplier", "lr_at_branch", "epochs", "overrides")
"""All axes but model (a figure each) and seeds (averaged)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A score of a model: its columns in results.parquet, and how it is shown."""

    column: str
    title: str
    stderr: str = ""
    """Column of its standard error; empty: it has none. Likewise `chance`."""
    chance: str = ""
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        """Its name in the column `score`: vision, heldout_vision, text, bits_per_byte or vision_z."""
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
"""Scores of summary and differences. No figure shows z-scores: they depend on the other models."""


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """Mean over the seeds at one value of x.

    `error`: the standard deviation over seeds; for one seed the standard error of its evaluation, None if unknown.
    """

    x: Any
    y: float
    error: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class GridSlice:
    """Lines of a panel: value of the series to points in order of x; and the values of the axes that are held."""

    lines: Mapping[Any, Sequence[PlotPoint]]
    held: Mapping[str, Any]
    chance: float | None
    """Chance level of the score; None where it has none or the rows differ in it."""

    @property
    def x_values(self) -> list[Any]:
        return sort_values({point.x for points in self.lines.values() for point in points})


def build_slice(rows: Sequence[Row], measure: Measure, x: str, series: str) -> GridSlice:
    """The slice of one model's rows that shows `measure` against `x`, a line for each value of `series`.

    Every other axis is held at its most frequent value among the scored rows; of equally frequent ones, at that of the
    best row.
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


@dataclass(frozen=True, slots=True)
class FigureView:
    """Scores against the axis `x`, with a line for each value of the axis `series`."""

    x: str
    series: str


VIEWS = (
    FigureView("branch", "image_share"),
    FigureView("image_share", "branch"),
    FigureView("instruction_share", "image_share"),
    FigureView("epochs", "image_share"),
    FigureView("captions", "image_share"),
    FigureView("encoder", "image_share"),
    FigureView("freeze_encoder", "image_share"),
    FigureView("amount", "image_share"),
    FigureView("lr_at_branch", "image_share"),
)
"""Each is a figure of its own for each model, with a panel for each score."""


# Why: docs/decisions.md, D99
def build_view_slice(rows: Sequence[Row], measure: Measure, view: FigureView) -> GridSlice:
    """The slice of `build_slice`; where no line of it has two points, that of the models which differ in x alone."""
    found = build_slice(rows, measure, view.x, view.series)
    if any(len(points) > 1 for points in found.lines.values()):
        return found
    families: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    others = [axis for axis in (*SLICE_AXES, "model") if axis != view.x]
    for row in rows:
        if row.get(measure.column) is not None:
            families[tuple(normalise_axis_value(row, axis) for axis in others)].append(row)
    compared = [row for family in families.values() if is_axis_varied(family, view.x) for row in family]
    return build_slice(compared, measure, view.x, view.series) if compared else found


def build_plot_point(x: Any, rows: Sequence[Row], measure: Measure) -> PlotPoint:
    """One point of one line, from rows that differ in their seed only."""
    by_seed: dict[Any, list[float]] = {}
    for row in rows:
        by_seed.setdefault(list_seeds(row), []).append(row[measure.column])
    values = [statistics.fmean(same) for same in by_seed.values()]
    error = statistics.stdev(values) if len(values) > 1 else rows[0].get(measure.stderr)
    return PlotPoint(x, statistics.fmean(values), error, len(values))


def select_held_values(rows: Sequence[Row], axes: Iterable[str]) -> dict[str, Any]:
    """The value at which each axis is held: see `build_slice`."""
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
    """The row with the best score: by vision, else held-out vision, else text, else loss; the first of equals."""
    rows = list(rows)
    for measure in (VISION, HELD_OUT, TEXT, BITS_PER_BYTE):
        scored = [row for row in rows if row.get(measure.column) is not None]
        if scored:
            sign = 1 if measure.higher_is_better else -1
            return max(scored, key=lambda row: sign * row[measure.column])
    return None


def is_in_slice(row: Row, held: Mapping[str, Any]) -> bool:
    """Whether a row has the held value of every axis that has a meaning for it."""
    return all(
        normalise_axis_value(row, axis) == value for axis, value in held.items() if is_meaningful_axis(row, axis)
    )


def is_meaningful_axis(row: Row, axis: str) -> bool:
    """Whether the axis has a meaning for the row: axes of images have none without images."""
    return axis not in IMAGE_AXES or row.get("image_share") != 0


def normalise_axis_value(row: Row, axis: str) -> Any:
    """The value, hashable. Seeds among the overrides (`finetune.seed`) are left out, like the axis `seed`."""
    value = row.get(axis)
    if axis == "overrides":
        return tuple(pair for pair in value or () if not is_seed(pair[0]))
    return value


def list_seeds(row: Row) -> tuple[Any, ...]:
    """All seeds of a row: the axis `seed`, and those among its overrides."""
    return row.get("seed"), *(value for name, value in row.get("overrides") or () if is_seed(name))


def is_seed(name: str) -> bool:
    """Whether a dotted setting is a seed."""
    return name.rpartition(".")[2] == "seed"


def find_common_chance(rows: Sequence[Row], measure: Measure) -> float | None:
    """The chance level of all rows; None where they differ."""
    levels = {round(row[measure.chance], 9) for row in rows if measure.chance and row.get(measure.chance) is not None}
    return levels.pop() if len(levels) == 1 else None


def is_axis_varied(rows: Sequence[Row], axis: str) -> bool:
    """Whether the rows have several values of an axis."""
    return len({normalise_axis_value(row, axis) for row in rows if row.get(axis) is not None}) > 1


def make_sort_key(value: Any) -> tuple[bool, Any]:
    """Sort key: numbers by size, words by letters, None last."""
    return value is None, value if isinstance(value, (int, float)) else str(value)


def sort_values(values: Iterable[Any]) -> list[Any]:
    """By `make_sort_key`."""
    return sorted(values, key=make_sort_key)
