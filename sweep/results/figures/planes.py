"""Figures with two numbers of each model as coordinates: heat map, text against vision, score against cost."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from jobs.counted import format_counted
from sweep.results.figures.panels import AFTER_ALL_TEXT
from sweep.results.figures.scores import ONE_VALUE, TOO_FEW
from sweep.results.figures.style import (
    GREY,
    ORDERED_COLOURS,
    DrawnFigure,
    FigureLegend,
    OmittedFigure,
    build_handle,
    build_hollow_handle,
    select_style,
    start_figure,
)
from sweep.results.figures.words import (
    AXIS_LABELS,
    LEGEND_TITLES,
    format_axis_label,
    format_held_axes,
    join_sentences,
    list_varied_axes,
    sort_axis_values,
)
from sweep.results.slices import (
    BITS_PER_BYTE,
    HELD_OUT,
    TEXT,
    VISION,
    GridSlice,
    Measure,
    Row,
    build_slice,
    is_axis_varied,
)

# Heat map.


def draw_heat_map(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Scores over branch point and image share, a number in each field."""
    name = "heat_map"
    if not (is_axis_varied(rows, "branch") and is_axis_varied(rows, "image_share")):
        return OmittedFigure(name, f"branch or image share has {ONE_VALUE}")
    found = [
        (measure, build_slice(rows, measure, "branch", "image_share"))
        for measure in (VISION, HELD_OUT, TEXT, BITS_PER_BYTE)
    ]
    found = [(measure, view) for measure, view in found if len(view.x_values) > 1 and len(view.lines) > 1]
    if not found:
        return OmittedFigure(name, TOO_FEW)
    held = format_held_axes(found[0][1].held, list_varied_axes(rows))
    seeds = max(point.seeds for _, view in found for line in view.lines.values() for point in line)
    caption = join_sentences(
        held,
        "accuracy above chance, for the text loss bits per byte; lighter is better; hatched: no score",
        "right of the dark line: images after all text" if AFTER_ALL_TEXT in found[0][1].x_values else "",
        f"mean over up to {seeds} seeds" if seeds > 1 else "one seed",
    )
    lines = max(len(view.lines) for _, view in found)
    figure, places = start_figure(len(found), heading=caption, panel_height=0.45 + 0.24 * lines)
    for axes, (measure, view) in zip(places, found, strict=True):
        draw_heat_panel(figure, axes, measure, view)
    return DrawnFigure(name, "Scores over branch point and image share", caption, figure)


def draw_heat_panel(figure: Figure, axes: Axes, measure: Measure, view: GridSlice) -> None:
    """One score: columns are branch points, rows image shares."""
    branches, shares = view.x_values, list(view.lines)
    grid = np.full((len(shares), len(branches)), np.nan)
    for row, share in enumerate(shares):
        for point in view.lines[share]:
            grid[row, branches.index(point.x)] = point.y
    scale = Normalize(np.nanmin(grid), np.nanmax(grid))
    colours = colormaps[ORDERED_COLOURS if measure.higher_is_better else ORDERED_COLOURS + "_r"]
    axes.set_facecolor("white")
    axes.patch.set(hatch="////", edgecolor="#aaaaaa")
    mesh = axes.pcolormesh(np.ma.masked_invalid(grid), cmap=colours, norm=scale, edgecolors="white", linewidth=0.8)
    digits = 3 if len(branches) <= 6 else 2
    for row, column in np.argwhere(~np.isnan(grid)):
        value = grid[row, column]
        red, green, blue, _ = colours(scale(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{value:.{digits}f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    if AFTER_ALL_TEXT in branches and len(branches) > 1:
        axes.axvline(branches.index(AFTER_ALL_TEXT), color="black", linewidth=1.6)
    axes.set_xticks(
        np.arange(len(branches)) + 0.5, [format_axis_label("branch", value, unit=False) for value in branches]
    )
    axes.set_yticks(
        np.arange(len(shares)) + 0.5, [format_axis_label("image_share", value, unit=False) for value in shares]
    )
    axes.set_xlabel(AXIS_LABELS["branch"])
    axes.set_ylabel("image share (%)")
    axes.set_title(measure.title)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=14)
    bar.outline.set_visible(False)


# Scatter: every model is a point.


def draw_text_against_vision(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Text against vision, every scored model of one size a point."""
    name = "text_against_vision"
    vision = find_scored_measure(rows, (VISION, HELD_OUT))
    text = find_scored_measure(rows, (TEXT, BITS_PER_BYTE))
    if vision is None or text is None:
        return OmittedFigure(name, "no scores of vision or none of text")
    shown = [row for row in rows if row.get(vision.column) is not None and row.get(text.column) is not None]
    if len(shown) < 2:
        return OmittedFigure(name, "fewer than two models with both scores")
    series = find_series(shown, ("branch", "image_share", "epochs", "captions", "encoder"))
    caption = "Every scored model is a point; nothing is averaged or held; no bars."
    legend = build_scatter_legend(shown, series)
    figure, (axes,) = start_figure(1, heading=caption, legend=legend, panel_height=2.2)
    draw_scatter(axes, shown, series, lambda row: row[vision.column], lambda row: row[text.column])
    axes.set_xlabel(label_measure(vision))
    axes.set_ylabel(label_measure(text))
    return DrawnFigure(name, "Text against vision", caption, figure)


def draw_score_by_cost(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """The vision score, else the text score, against what each model cost; all sizes in one figure."""
    name = "score_by_cost"
    measure = find_scored_measure(rows, (VISION, HELD_OUT, TEXT, BITS_PER_BYTE))
    if measure is None:
        return OmittedFigure(name, "no scores")
    scored = [row for row in rows if row.get(measure.column) is not None]
    column, unit = (
        ("a100_hours", "A100-hours")
        if any(sum_cost(row, "a100_hours") for row in scored)
        else ("cpu_hours", "CPU core-hours")
    )
    shown = [row for row in scored if sum_cost(row, column)]
    if len(shown) < 2:
        return OmittedFigure(name, "fewer than two scored models with known hours")
    series = find_series(shown, ("model", "branch", "image_share", "epochs"))
    caption = join_sentences(
        "every scored model is a point; its cost is its own jobs and an equal part of those that it shares",
        "the step line is the best score up to a cost",
        *describe_cost_sources(shown),
    )
    figure, (axes,) = start_figure(1, heading=caption, legend=build_scatter_legend(shown, series), panel_height=2.2)
    points = sorted((sum_cost(row, column) or 0.0, row[measure.column]) for row in shown)
    costs = [cost for cost, _ in points]
    best = (np.maximum if measure.higher_is_better else np.minimum).accumulate([score for _, score in points])
    axes.step(costs, best, where="post", color=GREY, linewidth=0.8, zorder=4)
    draw_scatter(axes, shown, series, lambda row: sum_cost(row, column), lambda row: row[measure.column])
    if costs[-1] > 20 * costs[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{unit} a model")
    axes.set_ylabel(label_measure(measure))
    return DrawnFigure(name, "Score against cost", caption, figure)


def describe_cost_sources(rows: Sequence[Row]) -> list[str]:
    """A sentence for each reason for which costs are not by Slurm's accounting, with the number of models."""
    found = Counter(row["hours_remark"] for row in rows if row.get("hours_remark"))
    return [
        f"the cost of {number:,} of {format_counted(len(rows), 'model')} is not Slurm's, "
        f"but what their attempts recorded ({remark})"
        for remark, number in found.items()
    ]


def draw_scatter(
    axes: Axes, rows: Sequence[Row], series: str, across: Callable[[Row], Any], up: Callable[[Row], Any]
) -> None:
    """A marker for each row; hollow where images came after all text."""
    values = sort_axis_values(series, {row[series] for row in rows}, rows)
    for index, value in enumerate(values):
        look = select_style(index, len(values))
        size = 3.6 if len(rows) <= 100 else 2.8 if len(rows) <= 400 else 2.2
        for hollow in (False, True):
            members = [row for row in rows if row[series] == value and (row["branch"] == AFTER_ALL_TEXT) is hollow]
            if members:
                axes.plot(
                    [across(row) for row in members],
                    [up(row) for row in members],
                    linestyle="none",
                    marker=look.marker,
                    markersize=size if hollow else size + 0.8,  # of equal size to the eye
                    color=look.colour,
                    markerfacecolor="white" if hollow else look.colour,
                    markeredgecolor=look.colour if hollow else "white",  # else points that touch become one
                    markeredgewidth=0.8 if hollow else 0.25,
                    zorder=3,
                )
    axes.grid(visible=True)
    axes.margins(0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def build_scatter_legend(rows: Sequence[Row], series: str) -> FigureLegend:
    """A marker for each value, and what hollow means."""
    values = sort_axis_values(series, {row[series] for row in rows}, rows)
    handles = [
        build_handle(
            format_axis_label(series, value),
            select_style(index, len(values)),
            line=False,
            hollow=series == "branch" and value == AFTER_ALL_TEXT,
        )
        for index, value in enumerate(values)
    ]
    if any(row["branch"] == AFTER_ALL_TEXT for row in rows):
        handles.append(build_hollow_handle())
    return FigureLegend(LEGEND_TITLES.get(series, series), handles)


def find_scored_measure(rows: Sequence[Row], measures: Sequence[Measure]) -> Measure | None:
    """The first of the scores that any row has."""
    return next((each for each in measures if any(row.get(each.column) is not None for row in rows)), None)


def find_series(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """The first of the axes with several values; else the first."""
    varied = (axis for axis in axes if len({row[axis] for row in rows}) > 1)
    return next(varied, axes[0])


def label_measure(measure: Measure) -> str:
    """An axis label for a score."""
    return f"{measure.title.lower()} (accuracy - chance)" if measure.chance else f"{measure.title.lower()} (bits/byte)"


def sum_cost(row: Row, unit: str) -> float | None:
    """Own and shared hours of a model; None where one is not known."""
    own, shared = row[f"{unit}_own"], row[f"{unit}_shared"]
    return None if own is None or shared is None else float(own + shared)
