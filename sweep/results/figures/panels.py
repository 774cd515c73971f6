"""One panel: a score against an axis, a line for each value of another axis, error bars, the chance level."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from sweep.results.figures.style import (
    CHARACTER,
    GREY,
    LINE_HEIGHT,
    SMALL,
    FigureLegend,
    SeriesStyle,
    add_margin_label,
    build_handle,
    build_hollow_handle,
    select_style,
)
from sweep.results.figures.words import (
    AXIS_LABELS,
    AXIS_WORDS,
    CATEGORIES,
    LEGEND_TITLES,
    format_axis_label,
    sort_axis_values,
    wrap_name,
)
from sweep.results.slices import FigureView, GridSlice, Measure, PlotPoint, Row

AFTER_ALL_TEXT = 100
"""The branch point at which images come in only after text pre-training, at the end of its learning rate's decay."""


@dataclass(frozen=True, slots=True)
class FigurePanel:
    """One coordinate system of a figure."""

    measure: Measure
    view: FigureView
    content: GridSlice

    def find_branch(self, series_value: Any, point: PlotPoint) -> Any:
        """The branch point of a point; None where the panel does not vary it."""
        return {self.view.series: series_value, self.view.x: point.x}.get("branch")

    def describe(self) -> str:
        """`Vision against branch point`."""
        return f"{self.measure.title} against {AXIS_WORDS[self.view.x]}"

    @property
    def points(self) -> list[PlotPoint]:
        return [point for line in self.content.lines.values() for point in line]


def draw_panel(
    axes: Axes, panel: FigurePanel, series_values: Sequence[Any], *, panel_width: float, subtitle: Sequence[str]
) -> None:
    """Draws lines with error bars, hollow points and the chance level.

    `series_values`: those of the whole figure; `panel_width`: inches, with all margins; `subtitle`: lines below the
    title.
    """
    x, view = panel.view.x, panel.content
    places = compute_x_positions(x, view.x_values)
    for value, points in view.lines.items():
        index = series_values.index(value)
        shift = compute_x_offset(index, len(series_values), x, places)
        branches = [panel.find_branch(value, point) for point in points]
        draw_line(
            axes,
            [(places[point.x] + shift, point) for point in points],
            select_style(index, len(series_values)),
            hollow=[branch == AFTER_ALL_TEXT for branch in branches],
            joined=x not in CATEGORIES,
        )
    draw_x_axis(axes, x, places, room=panel_width - 1.1)
    axes.set_title(panel.measure.title, pad=4 + 72 * LINE_HEIGHT * len(subtitle))
    axes.annotate(
        "\n".join(subtitle),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        color=GREY,
        fontsize=SMALL,
    )
    axes.grid(axis="y")
    draw_score_axis(axes, panel.measure, view.chance)


def draw_line(
    axes: Axes, points: Sequence[tuple[float, PlotPoint]], look: SeriesStyle, *, hollow: Sequence[bool], joined: bool
) -> None:
    """One line with its error bars; `hollow`: for each point whether it is."""
    across, up = [place for place, _ in points], [point.y for _, point in points]
    if joined and len(points) > 1:
        axes.plot(across, up, color=look.colour, linestyle=look.line, zorder=2)
    errors = [point.error or 0.0 for _, point in points]
    axes.errorbar(across, up, yerr=errors, fmt="none", ecolor=look.colour, elinewidth=0.7, capsize=1.5, zorder=2)
    for is_hollow in (False, True):
        chosen = [index for index, each in enumerate(hollow) if each is is_hollow]
        if chosen:
            axes.plot(
                [across[index] for index in chosen],
                [up[index] for index in chosen],
                color=look.colour,
                marker=look.marker,
                markerfacecolor="white" if is_hollow else look.colour,
                linestyle="none",
                zorder=3,
            )


def draw_x_axis(axes: Axes, x: str, places: dict[Any, float], room: float) -> None:
    """Ticks at the values, and the label. `room`: inches for the labels of all ticks together."""
    labels = [format_axis_label(x, value, unit=False) for value in places]
    axes.margins(x=0.06, y=0.1)
    if x in CATEGORIES:
        labels = [wrap_name(label, max(6, int(room / len(places) / CHARACTER) - 1)) for label in labels]
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xticks(list(places.values()), labels)
    axes.set_xlabel(AXIS_LABELS.get(x, x))


def draw_score_axis(axes: Axes, measure: Measure, chance: float | None) -> None:
    """The y axis. For accuracies the score is above chance, which is a dashed line named in the right margin."""
    if not measure.chance:
        axes.set_ylabel("bits per byte, lower is better")
        return
    axes.set_ylabel("accuracy - chance")
    name = "chance" if chance is None else f"chance\n(acc. {chance:.3g})"
    low, high = axes.get_ylim()
    # Zero far below all points would press the differences that the figure is about into a few pixels.
    if low <= 0 or low <= high - low:
        axes.axhline(0.0, color=GREY, linestyle=(0, (5, 3)), linewidth=0.8, zorder=1)
        axes.set_ylim(min(low, -0.06 * (high - min(low, 0.0))), max(high, 0.02))
        add_margin_label(axes, name, 0.0)
    else:
        add_margin_label(axes, "chance (0)\nis below", 0.0, data=False)


def compute_x_positions(axis: str, values: Sequence[Any]) -> dict[Any, float]:
    """x position of each value: to scale; evenly spaced for words, and where points would crowd (1, 5, 10, 100 %)."""
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if axis == "parameters":
        return {value: math.log10(value) for value in values}
    gaps = [right - left for left, right in pairwise(numbers)]
    if axis in CATEGORIES or len(numbers) < len(values) or not gaps or min(gaps) < 0.08 * sum(gaps):
        return {value: float(index) for index, value in enumerate(values)}
    return {value: float(value) for value in values}


def compute_x_offset(index: int, lines: int, axis: str, places: dict[Any, float]) -> float:
    """A horizontal shift, so that the error bars of several lines do not cover each other."""
    span = max(places.values()) - min(places.values())
    step = min(0.12, 0.7 / lines) if axis in CATEGORIES else 0.008 * (span or 1.0)
    return step * (index - (lines - 1) / 2)


def list_series_values(panels: Sequence[FigurePanel], rows: Sequence[Row]) -> list[Any]:
    """The values of the series in any panel, in order: the same value looks the same in all panels."""
    return sort_axis_values(panels[0].view.series, {value for panel in panels for value in panel.content.lines}, rows)


def build_panel_legend(panels: Sequence[FigurePanel], values: Sequence[Any]) -> FigureLegend:
    """The legend of panels with the same series."""
    view = panels[0].view
    handles = [
        build_handle(
            format_axis_label(view.series, value),
            select_style(index, len(values)),
            line=view.x not in CATEGORIES,
            hollow=view.series == "branch" and value == AFTER_ALL_TEXT,
        )
        for index, value in enumerate(values)
    ]
    across = {point.x for panel in panels if panel.view.x == "branch" for point in panel.points}
    if AFTER_ALL_TEXT in across or (view.series == "branch" and AFTER_ALL_TEXT in values):
        handles.append(build_hollow_handle())
    return FigureLegend(LEGEND_TITLES.get(view.series, view.series), handles)
