"""The page's figures: scores with error bars, differences with intervals, loss curves."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sweep.page.curves import ThinCurve, select_evenly
from sweep.page.drawing import (
    DASHES,
    SERIES,
    ChartAxis,
    ChartLine,
    ChartPoint,
    choose_axis,
    choose_category_axis,
    cut_label,
    draw_legend,
    draw_line_chart,
    draw_mark,
    join_markup,
    place_on,
    wrap_drawing,
)
from sweep.page.heat_map import format_value, freeze, list_varied
from sweep.phases import PHASES
from sweep.results.figures.words import (
    AXIS_LABELS,
    AXIS_WORDS,
    CATEGORIES,
    LEGEND_TITLES,
    format_axis_label,
    format_axis_text,
    format_held_axes,
    format_spread_note,
    join_sentences,
    list_varied_axes,
    sort_axis_values,
)
from sweep.results.lineage import ModelChain
from sweep.results.slices import (
    MEASURES,
    VIEWS,
    FigureView,
    GridSlice,
    Measure,
    PlotPoint,
    Row,
    build_view_slice,
    sort_values,
)

AFTER_ALL_TEXT = 100
NO_MARKUP = Markup("")
MOST_LINES = 12
"""Of a chart; more are left out evenly, and the caption says so."""
SHARED = SERIES - 1
"""The grey of lines that belong to several values."""


@dataclass(frozen=True, slots=True)
class PageFigure:
    """Charts with one legend and one caption."""

    title: str
    caption: str
    charts: Sequence[Markup]
    legend: Markup = NO_MARKUP
    wide: bool = False


# Scores by axis.


def iter_score_figures(rows: Sequence[Row]) -> Iterator[PageFigure]:
    """For each model and each axis that varies, its scores against the axis."""
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    for model in models:
        of_model = [drop_non_finite(row) for row in rows if str(row["model"]) == model]
        for view in VIEWS:
            if figure := build_score_figure(of_model, view, f"{model}: " if len(models) > 1 else ""):
                yield figure
    if len(models) > 1:
        finite = [drop_non_finite(row) for row in rows]
        for x in ("branch", "image_share"):
            if figure := build_score_figure(finite, FigureView(x, "model"), "all models: "):
                yield figure


def drop_non_finite(row: Row) -> Row:
    """The row without scores that have no place on an axis."""
    lost = [each.column for each in MEASURES if row[each.column] is not None and not math.isfinite(row[each.column])]
    return {**row, **dict.fromkeys(lost)} if lost else row


def build_score_figure(rows: Sequence[Row], view: FigureView, prefix: str) -> PageFigure | None:
    """A chart for each score that has two places on the axis; None without any."""
    slices = [(measure, build_view_slice(rows, measure, view)) for measure in MEASURES]
    shown = [(measure, found) for measure, found in slices if len(found.x_values) > 1]
    if not shown:
        return None
    values = sort_axis_values(view.series, {value for _, found in shown for value in found.lines}, rows)
    kept = [values[place * len(values) // MOST_LINES] for place in range(MOST_LINES)]
    styles = {value: place for place, value in enumerate(kept if len(values) > MOST_LINES else values)}
    held = list(dict.fromkeys(format_held_axes(found.held, list_varied_axes(rows)) for _, found in shown))
    points = [point for _, found in shown for line in found.lines.values() for point in line]
    left = len(values) - len(styles)
    caption = join_sentences(
        "; ".join(filter(None, held)),
        format_spread_note(points),
        f"{left} more lines are in the table of models" if left else "",
        "hollow: images after all text" if "branch" in {view.x, view.series} and has_all_text(rows) else "",
    )
    return PageFigure(
        title=f"{prefix}scores against {AXIS_WORDS.get(view.x, view.x)}",
        caption=caption,
        charts=[draw_score_chart(measure, view, found, styles) for measure, found in shown],
        legend=draw_legend([(name_series(view, value), style) for value, style in styles.items()]),
    )


def name_series(view: FigureView, value: Any) -> str:
    """A value of the legend, with the axis: `image share 20 %`."""
    title = LEGEND_TITLES.get(view.series, view.series)
    return f"{title} {format_axis_label(view.series, value)}"


def has_all_text(rows: Sequence[Row]) -> bool:
    """Whether some images come in after all text."""
    return any(row["branch"] == AFTER_ALL_TEXT for row in rows)


def draw_score_chart(measure: Measure, view: FigureView, found: GridSlice, styles: Mapping[Any, int]) -> Markup:
    """One score against the axis."""
    places = place_x_values(view.x, found.x_values)
    words = is_axis_of_words(view.x, found.x_values)

    def shift(style: int) -> float:
        """Points above one word stand beside one another."""
        return 0.5 * (style + 0.5 - len(styles) / 2) / max(len(styles), 4) if words else 0.0

    lines = [
        ChartLine(
            name_series(view, value),
            styles[value],
            [build_chart_point(view, value, point, places[point.x] + shift(styles[value])) for point in points],
        )
        for value, points in found.lines.items()
        if value in styles
    ]
    ends = [
        point.y + sign * (point.error or 0) for points in found.lines.values() for point in points for sign in (-1, 1)
    ]
    chance = found.chance is not None
    y = choose_axis(
        "" if measure.higher_is_better else "bits/byte: lower is better", ends, includes=[0.0] if chance else []
    )
    level = (0.0, f"chance ({found.chance:.3g})") if found.chance is not None else None
    shown = {point.x for points in found.lines.values() for point in points}
    return draw_line_chart(
        measure.title,
        choose_x_axis(view.x, [value for value in found.x_values if value in shown]),
        y,
        lines,
        level=level,
        description=f"{measure.title} score against {AXIS_WORDS.get(view.x, view.x)}, {len(lines)} lines",
    )


def build_chart_point(view: FigureView, series: Any, point: PlotPoint, x: float) -> ChartPoint:
    """A point with what a reader is told of it."""
    error = "" if point.error is None else f" ±{point.error:.3f}"
    where = f"{format_axis_label(view.x, point.x)}, {name_series(view, series)}"
    hollow = AFTER_ALL_TEXT in ({view.x: point.x, view.series: series}.get("branch"),)
    return ChartPoint(x, point.y, point.error, f"{where}: {point.y:.3f}{error}", hollow=hollow)


def is_axis_of_words(axis: str, values: Sequence[Any]) -> bool:
    """Whether the values stand at equal distances."""
    return axis in CATEGORIES or not all(isinstance(value, (int, float)) for value in values)


def place_x_values(axis: str, values: Sequence[Any]) -> dict[Any, float]:
    """Where each value lies."""
    if is_axis_of_words(axis, values):
        return {value: float(place) for place, value in enumerate(values)}
    factor = 100 if axis in {"image_share", "instruction_share"} else 1
    return {value: factor * float(value) for value in values}


def choose_x_axis(axis: str, values: Sequence[Any]) -> ChartAxis:
    """The axis below a chart."""
    label = AXIS_LABELS.get(axis, axis)
    if is_axis_of_words(axis, values):
        return choose_category_axis(label, [format_axis_label(axis, value, unit=False) for value in values])
    return choose_axis(label, place_x_values(axis, values).values())


# Differences: the study's answers.

MOST_DIFFERENCES = 40
ROW = 20.0


def build_difference_figures(found: Sequence[Row]) -> list[PageFigure]:
    """A figure for each score: the change from the first to the last value of each axis, and between neighbours.

    `found`: rows of differences.parquet.
    """
    charts = []
    for measure in MEASURES:
        of_measure = [row for row in found if row["score"] == measure.name and math.isfinite(row["difference"])]
        kept = of_measure[:MOST_DIFFERENCES]
        if kept:
            charts.append(draw_differences(measure, kept, several=len({row["model"] for row in found}) > 1))
    if not charts:
        return []
    caption = (
        "Second value minus first, mean over pairs of cells that are equal in all else. Bars: 95 % intervals, paired "
        "by question, where answers are kept; else two standard errors. If a bar reaches 0, the effect may be the "
        "noise of these questions"
    )
    more = max(sum(row["score"] == measure.name for row in found) for measure in MEASURES) - MOST_DIFFERENCES
    return [
        PageFigure(
            title="effects of the axes",
            caption=join_sentences(caption, f"{more} more are in the table of effects" if more > 0 else ""),
            charts=charts,
        )
    ]


def find_interval(row: Row) -> tuple[float, float]:
    """The 95 % interval of a difference; two standard errors where answers are not kept; the point itself without."""
    if row["low"] is not None and row["high"] is not None:
        return row["low"], row["high"]
    error = row["stderr"] if row["stderr"] is not None else row["test_stderr"] or 0.0
    return row["difference"] - 2 * error, row["difference"] + 2 * error


def draw_differences(measure: Measure, rows: Sequence[Row], *, several: bool) -> Markup:
    """One row for each pair of values."""
    left, right, top = 170.0, 330.0, 34.0
    bottom = top + ROW * len(rows)
    intervals = [find_interval(row) for row in rows]
    axis = choose_axis("", [end for pair in intervals for end in pair], includes=[0.0])
    parts = [Markup('<text class="title" x="2" y="12">{}</text>').format(measure.title)]
    for value, name in axis.ticks:
        at = place_on(axis, value, left, right)
        parts.append(Markup('<path class="grid" d="M{:.1f},{}V{}"/>').format(at, top - 6, bottom))
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(at, top - 10, name)
        )
    zero = place_on(axis, 0.0, left, right)
    parts.append(Markup('<path class="level" d="M{:.1f},{}V{}"/>').format(zero, top - 6, bottom))
    for number, (row, (low, high)) in enumerate(zip(rows, intervals, strict=True)):
        y = top + ROW * (number + 0.5)
        first, last = place_on(axis, low, left, right), place_on(axis, high, left, right)
        axis_name = AXIS_WORDS.get(row["axis"], row["axis"])
        model = f"{row['model']} " if several else ""
        sides = " → ".join(format_axis_text(row["axis"], row[side]) for side in ("first", "second"))
        name = f"{model}{axis_name} {sides}"
        parts.append(
            Markup('<text class="tick" x="2" y="{:.1f}">{}<title>{}</title></text>').format(
                y + 3.5, cut_label(name, 30), name
            )
        )
        parts.append(Markup('<path class="e s0" d="M{:.1f},{:.1f}H{:.1f}"/>').format(first, y, last))
        note = f"{name}: {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {row['pairs']} pairs"
        parts.append(draw_mark(0, place_on(axis, row["difference"], left, right), y, note=note))
    return wrap_drawing(join_markup(parts), 340, bottom + 6, f"{measure.title}: differences with intervals")


# Losses.

MOST_RUNS = 24


def build_loss_figure(
    chains: Sequence[ModelChain], phases: Mapping[str, str], curves: Mapping[str, ThinCurve]
) -> PageFigure | None:
    """The training losses of trunks, image-text runs and fine-tunes; None before anything is logged.

    `phases`: of each job, by key.
    """
    axes = choose_line_axes(chains)
    groups: dict[str, dict[str, None]] = {name: {} for name, phase in PHASES.items() if phase.trains}
    names: dict[str, str] = {}
    places: dict[str, set[tuple[int, ...]]] = {}
    for chain in chains:
        place = tuple(values.index(freeze(chain.cell.axes.get(axis))) for axis, values in axes.items())
        for key in chain.keys:
            group = groups.get(phases[key])
            if group is not None and key in curves:
                group[key] = None
                places.setdefault(key, set()).add(place)
                names.setdefault(key, "trunk" if phases[key] == "trunk" else chain.cell.name)
    styles = {key: choose_line_style(found) for key, found in places.items()}
    titles = {name: f"{PHASES[name].job}s".capitalize() for name in groups}
    charts, counts = [], []
    for phase, group in groups.items():
        if not group:
            continue
        kept = select_evenly(group, MOST_RUNS)
        counts.append(f"{len(kept)} of {len(group)} {titles[phase].lower()}" if len(kept) < len(group) else "")
        lines = [
            ChartLine(
                names[key],
                styles[key],
                [ChartPoint(float(x), float(y)) for x, y in zip(curves[key].steps, curves[key].values, strict=True)],
                marks=False,
            )
            for key in kept
        ]
        points = [point for line in lines for point in line.points]
        charts.append(
            draw_line_chart(
                titles[phase],
                choose_axis("step", [point.x for point in points]),
                choose_axis("nats/token", [point.y for point in points]),
                lines,
                description=f"Training loss of {titles[phase].lower()} against the step",
            )
        )
    if not charts:
        return None
    shown = ", ".join(filter(None, counts))
    return PageFigure(
        title="training losses",
        caption=join_sentences(
            "Each value is the mean of the losses logged in one of equal parts of the run",
            f"shown, at equal distances in the plan's order: {shown}; a cell shows its own" if shown else "",
        ),
        charts=charts,
        legend=draw_legend(list(iter_line_names(axes)), marks=False),
    )


def choose_line_axes(chains: Sequence[ModelChain]) -> dict[str, list[Any]]:
    """The axes that lines show, with their values: the first that varies by colour, the next by dashes.

    No others fit into a picture. An axis of too many values gets colours and dashes together, and is the only one.
    """
    cells = {chain.cell.name: chain.cell.axes for chain in chains}
    chosen: dict[str, list[Any]] = {}
    for axis, most in zip(list_varied(cells.values()), (MOST_LINES, DASHES), strict=False):
        values = sort_values({freeze(axes.get(axis)) for axes in cells.values()})
        if chosen and (len(values) > most or len(*chosen.values()) >= SERIES):
            break
        chosen[axis] = values
    return chosen


def choose_line_style(places: Set[tuple[int, ...]]) -> int:
    """Colour and dash of a job's line. `places`: of its cells' values in the axes of `choose_line_axes`.

    A job that serves several values of an axis, as a trunk does, has the colour of no value, or a full line.
    """
    by_axis = [set(found) for found in zip(*places, strict=True)]
    colour, dash = [*by_axis, {0}, {0}][:2]
    return (colour.pop() if len(colour) == 1 else SHARED) + SERIES * (dash.pop() if len(dash) == 1 else 0)


def iter_line_names(axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, int]]:
    """Entries of the legend: of the first axis in its colours, of the second in dashes without a colour."""
    for number, (axis, values) in enumerate(axes.items()):
        title = LEGEND_TITLES.get(axis, axis.replace("_", " "))
        for place, value in enumerate(values[:MOST_LINES]):
            yield f"{title} {format_value(axis, value)}", SHARED + SERIES * place if number else place
