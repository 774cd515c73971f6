"""PNG figures of a sweep, from the rows of results.parquet alone.

score_by_AXIS.png for each axis with several values and overview.png; with several models a set each, `-MODEL` appended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from jobs.store.paths import replacing
from sweep.results.panels import GREY, TITLE_WORDS, draw_panel, held_words
from sweep.results.slices import (
    BITS,
    HELD_OUT,
    MEASURES,
    SLICE_AXES,
    TEXT,
    VISION,
    Measure,
    Row,
    Slice,
    take_slice,
    varying,
)

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
class View:
    """A figure: scores against `x`, a line for each value of `series`."""

    x: str
    series: str


VIEWS = (
    View("branch", "image_share"),
    View("image_share", "branch"),
    View("instruction_share", "image_share"),
    View("epochs", "image_share"),
    View("captions", "image_share"),
    View("encoder", "image_share"),
    View("freeze_encoder", "image_share"),
    View("amount", "image_share"),
)
OVERVIEW = (
    ((HELD_OUT, VISION), View("image_share", "branch")),
    ((HELD_OUT, VISION), View("branch", "image_share")),
    ((BITS, TEXT), View("branch", "image_share")),
    ((HELD_OUT, VISION), View("epochs", "image_share")),
    ((TEXT, BITS), View("epochs", "image_share")),
    ((TEXT, BITS), View("image_share", "branch")),
)
"""Panels of the overview in order of preference; each shows the first of its measures that has points."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One coordinate system of a figure."""

    measure: Measure
    view: View
    content: Slice


def draw_figures(rows: Sequence[Row], sweep: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Writes the figures that the rows allow and removes older ones that they do not.

    Returns the paths, and remarks on what was left out and why.
    """
    drawn: list[Path] = []
    remarks: list[str] = []
    models = list(dict.fromkeys(str(row["model"]) for row in rows))
    for model in models:
        of_model = [row for row in rows if str(row["model"]) == model]
        suffix = f"-{model}" if len(models) > 1 else ""
        for name, panels in model_figures(of_model).items():
            size = (14.0, 9.0) if name == "overview" else None
            drawn.append(save(panels, f"Sweep {sweep}: model {model}", of_model, folder / f"{name}{suffix}.png", size))
        remarks += left_out(of_model, model)
    for stale in {*folder.glob("score_by_*.png"), *folder.glob("overview*.png")} - set(drawn):
        stale.unlink()
    return drawn, remarks


def model_figures(rows: Sequence[Row]) -> dict[str, list[Panel]]:
    """File name, without its end, to panels; only figures that have any."""
    figures = {f"score_by_{view.x}": figure_panels(rows, view) for view in VIEWS}
    figures["overview"] = overview_panels(rows)
    return {name: panels for name, panels in figures.items() if panels}


def left_out(rows: Sequence[Row], model: str) -> list[str]:
    """Why some figures of a model are not there."""
    missing = [view.x for view in VIEWS if not figure_panels(rows, view)]
    single = [axis for axis in missing if not varying(rows, axis)]
    waiting = [axis for axis in missing if axis not in single]
    reasons = ((single, "a single value in this sweep"), (waiting, "scores for fewer than two values so far"))
    return [f"{model}: no figure by {', '.join(axes)}: {reason}" for axes, reason in reasons if axes]


def figure_panels(rows: Sequence[Row], view: View) -> list[Panel]:
    """One panel for each measure that has at least two places on the x axis."""
    panels = [Panel(measure, view, take_slice(rows, measure, view.x, view.series)) for measure in MEASURES]
    return [panel for panel in panels if len(panel.content.x_values) > 1]


def overview_panels(rows: Sequence[Row]) -> list[Panel]:
    """Up to four panels, each (measure, view) once."""
    panels: list[Panel] = []
    for measures, view in OVERVIEW:
        shown = {(panel.measure, panel.view) for panel in panels}
        choices = [panel for panel in figure_panels(rows, view) if panel.measure in measures]
        choices.sort(key=lambda panel: measures.index(panel.measure))
        panels += [panel for panel in choices if (panel.measure, panel.view) not in shown][:1]
    return panels[:4]


def save(
    panels: Sequence[Panel], title: str, rows: Sequence[Row], path: Path, size: tuple[float, float] | None
) -> Path:
    """Draws the panels in one or two columns and puts the PNG in its place."""
    columns = 1 if len(panels) == 1 else 2
    lines = (len(panels) + columns - 1) // columns
    varied = {axis for axis in SLICE_AXES if varying(rows, axis)}
    with rc_context(STYLE):
        figure = Figure(figsize=size or (7.0 * columns, 4.4 * lines + 0.4), dpi=DPI)
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(lines, columns, index + 1)
            draw_panel(axes, panel.content, panel.measure, panel.view.x, panel.view.series)
            axes.set_title(panel_title(panel), pad=22)
            held = held_words(panel.content.held, varied)
            axes.annotate(held, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY)
        figure.suptitle(title, fontsize=14, fontweight="bold")
        figure.supxlabel(spread_note(panels), fontsize=9, color=GREY)
        with replacing(path) as unfinished:
            figure.savefig(unfinished, format="png", metadata={"Software": None})
    return path


def panel_title(panel: Panel) -> str:
    """`Vision against image share`."""
    against = TITLE_WORDS.get(panel.view.x, panel.view.x)
    return f"{panel.measure.title} against {against}"


def spread_note(panels: Sequence[Panel]) -> str:
    """What the points and their bars mean."""
    points = [point for panel in panels for line in panel.content.lines.values() for point in line]
    fewest, most = min(point.seeds for point in points), max(point.seeds for point in points)
    test_set = "bars: standard error of the test set" if any(point.error for point in points) else ""
    if most == 1:
        return f"one seed; {test_set}" if test_set else "one seed"
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    alone = " (of the test set where there is one seed)" if fewest == 1 else ""
    return f"points: mean over {seeds} seeds; bars: standard deviation over the seeds{alone}"
