"""PNG figures of a sweep, drawn from the rows of results.parquet.

score_by_AXIS.png for each axis with several values, and overview.png. With several models each has its own set, with
`-MODEL` at the end of the names.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.store.paths import open_replacement
from sweep.results.slices import (
    BITS_PER_BYTE,
    HELD_OUT,
    MEASURES,
    SLICE_AXES,
    TEXT,
    VISION,
    GridSlice,
    Measure,
    PlotPoint,
    Row,
    build_slice,
    is_axis_varied,
)

logger = logging.getLogger(__name__)

# One panel: a score against one axis, a line for each value of another axis, error bars, chance level.

AXIS_LABELS = {
    "branch": "branch point: text trained before images come in (%)",
    "image_share": "image share of the training mix (%)",
    "instruction_share": "instruction data in the image part (%)",
    "epochs": "fine-tuning epochs",
    "amount": "image-text training (Chinchilla budgets)",
    "captions": "captions",
    "encoder": "vision encoder",
    "freeze_encoder": "vision encoder's weights",
}
TITLE_WORDS = {
    "branch": "branch point",
    "image_share": "image share",
    "instruction_share": "instruction share",
    "epochs": "fine-tuning epochs",
    "amount": "amount of image-text training",
    "encoder": "vision encoder",
    "freeze_encoder": "frozen or trained encoder",
}
LEGEND_TITLES = {
    "branch": "images\nstart at",
    "image_share": "image\nshare",
    "instruction_share": "instruction\nshare",
    "epochs": "epochs",
    "captions": "captions",
}
HELD_AXIS_TEXTS = {
    "branch": "images from {} of the text",
    "image_share": "{} images",
    "instruction_share": "{} instructions",
    "captions": "{} captions",
    "encoder": "{}",
    "freeze_encoder": "encoder {}",
    "amount": "x{}",
    "epochs": "fine-tuned for {}",
    "overrides": "{}",
}
FRACTIONS = {"image_share", "instruction_share"}
CATEGORIES = {"captions", "encoder", "freeze_encoder"}
ORDERED_COLOURS = "viridis"
"""Perceptually uniform and safe for colour-blind readers; its pale end is not used."""
MARKERS = "osD^vP*Xph<>"
GREY = "#5b5b5b"


def format_axis_label(axis: str, value: Any, *, unit: bool = True) -> str:
    """A value of an axis for people: an image share of 0.25 is `25 %`."""
    sign = " %" if unit else ""
    if axis in FRACTIONS:
        return f"{100 * value:g}{sign}"
    if axis == "branch":
        return f"{value:.4g}{sign}"  # a branch point that was given as a step is no round percentage
    if axis == "epochs":
        return f"{value} epoch{'s' if value != 1 else ''}" if unit else str(value)
    if axis == "overrides":
        return ", ".join(f"{name} {setting}" for name, setting in value)
    if isinstance(value, bool):
        return "frozen" if value else "trained"  # `freeze_encoder` is the only boolean axis
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def format_held_axes(held: Mapping[str, Any], varied: set[str]) -> str:
    """The axes that a slice holds at one value, for its title; only those that the sweep varies."""
    words = [
        HELD_AXIS_TEXTS.get(axis, axis + " {}").format(format_axis_label(axis, value))
        for axis, value in held.items()
        if axis in varied and value not in {None, ()}
    ]
    return ", ".join(words)


def draw_panel(axes: Axes, view: GridSlice, measure: Measure, x: str, series: str) -> None:
    """Draws into `axes`: lines with error bars, the chance level dashed at 0, accuracies on the right."""
    places = compute_x_positions(x, view.x_values)
    for index, (value, points) in enumerate(view.lines.items()):
        shift = compute_x_offset(index, len(view.lines), places) * (8 if x in CATEGORIES else 1)
        draw_line(axes, [(places[point.x] + shift, point) for point in points], index, len(view.lines), x)
        axes.lines[-1].set_label(format_axis_label(series, value))
    axes.set_xticks(list(places.values()), [format_axis_label(x, value, unit=False) for value in places])
    axes.set_xlabel(AXIS_LABELS.get(x, x))
    axes.margins(x=0.3 if x in CATEGORIES else 0.08, y=0.12)
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    label_score(axes, view, measure)
    right = 1.16 if measure.chance and view.chance is not None else 1.01  # right of the accuracy axis, if there is one
    title = LEGEND_TITLES.get(series, series)
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(right, 1.02), frameon=False, alignment="left")


def draw_line(axes: Axes, points: Sequence[tuple[float, PlotPoint]], index: int, lines: int, x: str) -> None:
    """One line with error bars; without the line itself where the x axis has categories."""
    across = [place for place, _ in points]
    up = [point.y for _, point in points]
    shade = select_colour(index, lines)
    errors = [point.error or 0.0 for _, point in points]
    axes.errorbar(across, up, yerr=errors, fmt="none", ecolor=shade, elinewidth=1.2, capsize=2.5)
    axes.plot(
        across,
        up,
        color=shade,
        marker=MARKERS[index % len(MARKERS)],
        linestyle="none" if x in CATEGORIES or len(points) == 1 else "-",
        linewidth=1.8,
        markersize=6.5,
    )


def label_score(axes: Axes, view: GridSlice, measure: Measure) -> None:
    """The y axis. For accuracies: stable score on the left, accuracy on the right, chance level dashed."""
    if not measure.chance:
        axes.set_ylabel("bits per byte (lower is better)")
        return
    axes.set_ylabel("stable score (accuracy - chance)")
    axes.axhline(0.0, color=GREY, linestyle=(0, (5, 3)), linewidth=1.3, zorder=1)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.11 * high), high)  # room for the text below the line
    axes.annotate(
        "chance" if view.chance is None else f"chance: accuracy {view.chance:.3g}",
        (0.01, 0.0),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, -3),
        textcoords="offset points",
        va="top",
        color=GREY,
        fontsize="small",
    )
    if view.chance is not None:
        add_accuracy_axis(axes, view.chance)


def add_accuracy_axis(axes: Axes, chance: float) -> None:
    """A right axis on which the same points are accuracies."""

    def from_score(score: Any) -> Any:
        return score + chance

    def to_score(value: Any) -> Any:
        return value - chance

    accuracy = axes.secondary_yaxis("right", functions=(from_score, to_score))
    accuracy.set_ylabel("accuracy", color=GREY)
    accuracy.tick_params(colors=GREY)
    accuracy.spines["right"].set_color(GREY)


def compute_x_positions(axis: str, values: Sequence[Any]) -> dict[Any, float]:
    """x position of each value: to scale; evenly spaced for words, and where points would crowd (1, 5, 10, 100 %)."""
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    gaps = [right - left for left, right in pairwise(numbers)]
    if axis in CATEGORIES or len(numbers) < len(values) or not gaps or min(gaps) < 0.08 * sum(gaps):
        return {value: float(index) for index, value in enumerate(values)}
    return {value: float(value) for value in values}


def compute_x_offset(index: int, lines: int, places: dict[Any, float]) -> float:
    """A small horizontal shift, so that the error bars of several lines do not cover each other."""
    span = max(places.values()) - min(places.values())
    return 0.008 * (span or 1.0) * (index - (lines - 1) / 2)


def select_colour(index: int, lines: int) -> Any:
    """The colour of line `index` of `lines`."""
    return colormaps[ORDERED_COLOURS](0.84 * index / max(lines - 1, 1))


# The figures: which panels each has, and the files.

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.fontsize": 10,
    "legend.title_fontsize": 10,
    "figure.constrained_layout.use": True,
}
DPI = 100


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
)
OVERVIEW = (
    ((HELD_OUT, VISION), FigureView("image_share", "branch")),
    ((HELD_OUT, VISION), FigureView("branch", "image_share")),
    ((BITS_PER_BYTE, TEXT), FigureView("branch", "image_share")),
    ((HELD_OUT, VISION), FigureView("epochs", "image_share")),
    ((TEXT, BITS_PER_BYTE), FigureView("epochs", "image_share")),
    ((TEXT, BITS_PER_BYTE), FigureView("image_share", "branch")),
)
"""Panels of the overview, the first four that have points; each shows the first of its scores that has any."""


@dataclass(frozen=True, slots=True)
class FigurePanel:
    """One coordinate system of a figure."""

    measure: Measure
    view: FigureView
    content: GridSlice


def draw_figures(rows: Sequence[Row], sweep: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Writes the figures that the rows allow and deletes older figures that they no longer allow.

    Returns the paths, and a remark for each group of figures that is left out, with the reason.
    """
    drawn: list[Path] = []
    remarks: list[str] = []
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    for model in models:
        of_model = [row for row in rows if str(row["model"]) == model]
        suffix = f"-{model}" if len(models) > 1 else ""
        for name, panels in build_model_figures(of_model).items():
            size = (14.0, 9.0) if name == "overview" else None
            drawn.append(
                save_figure(panels, f"Sweep {sweep}: model {model}", of_model, folder / f"{name}{suffix}.png", size)
            )
        remarks += list_omitted_figures(of_model, model)
    for stale in {*folder.glob("score_by_*.png"), *folder.glob("overview*.png")} - set(drawn):
        stale.unlink()
    return drawn, remarks


def build_model_figures(rows: Sequence[Row]) -> dict[str, list[FigurePanel]]:
    """The figures with panels: file name without .png, to panels."""
    figures = {f"score_by_{view.x}": build_figure_panels(rows, view) for view in VIEWS}
    figures["overview"] = build_overview_panels(rows)
    return {name: panels for name, panels in figures.items() if panels}


def list_omitted_figures(rows: Sequence[Row], model: str) -> list[str]:
    """Which figures of a model are left out, and why."""
    missing = [view.x for view in VIEWS if not build_figure_panels(rows, view)]
    single = [axis for axis in missing if not is_axis_varied(rows, axis)]
    waiting = [axis for axis in missing if axis not in single]
    reasons = ((single, "a single value in this sweep"), (waiting, "scores for fewer than two values so far"))
    return [f"{model}: no figure by {', '.join(axes)}: {reason}" for axes, reason in reasons if axes]


def build_figure_panels(rows: Sequence[Row], view: FigureView) -> list[FigurePanel]:
    """A panel for each score with points at two or more values of the x axis."""
    panels = [FigurePanel(measure, view, build_slice(rows, measure, view.x, view.series)) for measure in MEASURES]
    return [panel for panel in panels if len(panel.content.x_values) > 1]


def build_overview_panels(rows: Sequence[Row]) -> list[FigurePanel]:
    """Up to four panels, no two alike."""
    panels: list[FigurePanel] = []
    for measures, view in OVERVIEW:
        shown = {(panel.measure, panel.view) for panel in panels}
        choices = [panel for panel in build_figure_panels(rows, view) if panel.measure in measures]
        choices.sort(key=lambda panel: measures.index(panel.measure))
        panels += [panel for panel in choices if (panel.measure, panel.view) not in shown][:1]
    return panels[:4]


def save_figure(
    panels: Sequence[FigurePanel], title: str, rows: Sequence[Row], path: Path, size: tuple[float, float] | None
) -> Path:
    """Draws the panels in one or two columns and writes the PNG whole. `size`: inches."""
    columns = 1 if len(panels) == 1 else 2
    lines = (len(panels) + columns - 1) // columns
    varied = {axis for axis in SLICE_AXES if is_axis_varied(rows, axis)}
    with rc_context(STYLE):
        figure = Figure(figsize=size or (7.0 * columns, 4.4 * lines + 0.4), dpi=DPI)
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(lines, columns, index + 1)
            draw_panel(axes, panel.content, panel.measure, panel.view.x, panel.view.series)
            axes.set_title(format_panel_title(panel), pad=22)
            held = format_held_axes(panel.content.held, varied)
            axes.annotate(held, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY)
        figure.suptitle(title, fontsize=14, fontweight="bold")
        figure.supxlabel(format_spread_note(panels), fontsize=9, color=GREY)
        with open_replacement(path) as unfinished:
            figure.savefig(unfinished, format="png", metadata={"Software": None})
    logger.info("%s: drawn", path)
    return path


def format_panel_title(panel: FigurePanel) -> str:
    """`Vision against image share`."""
    against = TITLE_WORDS.get(panel.view.x, panel.view.x)
    return f"{panel.measure.title} against {against}"


def format_spread_note(panels: Sequence[FigurePanel]) -> str:
    """What points and error bars mean."""
    points = [point for panel in panels for line in panel.content.lines.values() for point in line]
    fewest, most = min(point.seeds for point in points), max(point.seeds for point in points)
    test_set = "bars: standard error of the test set" if any(point.error for point in points) else ""
    if most == 1:
        return f"one seed; {test_set}" if test_set else "one seed"
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    alone = " (of the test set where there is one seed)" if fewest == 1 else ""
    return f"points: mean over {seeds} seeds; bars: standard deviation over the seeds{alone}"
