"""Scores of single tasks: bars by task, and each task against the branch point."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from sweep.catalog.chance import load_chances
from sweep.results.figures.panels import FigurePanel
from sweep.results.figures.scores import ONE_VALUE, TOO_FEW, draw_panels
from sweep.results.figures.style import (
    DrawnFigure,
    FigureLegend,
    OmittedFigure,
    select_style,
    start_figure,
)
from sweep.results.figures.words import (
    AXIS_WORDS,
    LEGEND_TITLES,
    format_axis_label,
    format_held_axes,
    format_spread_note,
    join_sentences,
    list_varied_axes,
    wrap_name,
)
from sweep.results.slices import (
    FigureView,
    GridSlice,
    Measure,
    Row,
    build_slice,
    is_axis_varied,
)

TASK_SCORE = Measure("task_score", "Tasks", "task_stderr", "task_chance")
KINDS = ("vision", "text")
COMPARED_AXES = ("image_share", "branch", "captions", "encoder", "freeze_encoder", "instruction_share", "epochs")
"""What bars and table compare: the first of these that varies. The study's table 3 compares with and without images."""
MOST_BARS = 6
"""Bars of a task; more would be too thin to tell apart."""


def expand_tasks(rows: Sequence[Row], kind: str) -> list[dict[str, Any]]:
    """A row for each model and task of a kind; `task_score` is the accuracy."""
    return [
        {
            **row,
            "task": task["task"],
            "task_score": task["score"],
            "task_stderr": task["stderr"],
            "task_chance": task["chance"],
        }
        for row in rows
        for task in row["scores"] or ()
        if task["kind"] == kind
    ]


def sort_tasks(tasks: Iterable[str]) -> list[str]:
    """Tasks of one kind or several: the study's in their order, then all others by name."""
    known = [name for kind in KINDS for name in load_chances().list_counted_tasks(kind)]
    return sorted(tasks, key=lambda name: (known.index(name) if name in known else len(known), name))


def find_compared_axis(rows: Sequence[Row]) -> str | None:
    """The axis that bars and table compare; None where the sweep varies none of them."""
    scored = [row for row in rows if row["scores"]]
    return next((axis for axis in COMPARED_AXES if is_axis_varied(scored, axis)), None)


# Bars.


def draw_tasks(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Accuracy in each task, a bar for each value of the compared axis, and each task's chance level."""
    axis = find_compared_axis(rows)
    if axis is None:
        return OmittedFigure("tasks", "nothing to compare: no axis has scores at two values")
    views = [build_slice(expand_tasks(rows, kind), TASK_SCORE, "task", axis) for kind in KINDS]
    found = [(kind, view) for kind, view in zip(KINDS, views, strict=True) if len(view.lines) > 1]
    if not found:
        return OmittedFigure("tasks", TOO_FEW)
    values = select_bar_values(list(found[0][1].lines))
    points = [point for _, view in found for value, line in view.lines.items() if value in values for point in line]
    left_out = len(found[0][1].lines) - len(values)
    caption = join_sentences(
        format_held_axes(found[0][1].held, list_varied_axes(rows)),
        format_spread_note(points),
        "dashes: chance",
        f"{left_out} values of {AXIS_WORDS[axis]} between these are not shown" if left_out else "",
    )
    handles = [
        Patch(label=format_axis_label(axis, value), **build_bar_look(index, len(values)))
        for index, value in enumerate(values)
    ]
    figure, places = start_figure(
        len(found),
        heading=caption,
        legend=FigureLegend(LEGEND_TITLES[axis], handles),
        columns=1 if max(len(sort_tasks(view.x_values)) for _, view in found) > 3 else None,
    )
    chances = {task["task"]: task["chance"] for row in rows for task in row["scores"] or ()}
    for axes, (kind, view) in zip(places, found, strict=True):
        draw_bars(axes, view, values, chances)
        axes.set_title(f"{kind.title()} tasks")
    return DrawnFigure("tasks", f"Tasks by {AXIS_WORDS[axis]}", caption, figure)


def draw_tasks_by_branch(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Every task with a chance level against the branch point, a line for each image share."""
    name = "tasks_by_branch"
    if not is_axis_varied(rows, "branch"):
        return OmittedFigure(name, ONE_VALUE)
    view = FigureView("branch", "image_share")
    by_task: dict[str, list[Row]] = {}
    for row in (row for kind in KINDS for row in expand_tasks(rows, kind) if row["task_chance"] is not None):
        above = {**row, "task_score": row["task_score"] - row["task_chance"]}
        by_task.setdefault(row["task"], []).append(above)
    panels = []
    for task in sort_tasks(by_task):
        measure = replace(TASK_SCORE, title=wrap_name(task, 24).partition("\n")[0])
        panels.append(FigurePanel(measure, view, build_slice(by_task[task], measure, view.x, view.series)))
    panels = [panel for panel in panels if len(panel.content.x_values) > 1]
    if not panels:
        return OmittedFigure(name, TOO_FEW)
    return draw_panels(name, "Tasks against branch point", panels, rows, panel_height=1.0)


def draw_bars(axes: Axes, view: GridSlice, values: Sequence[Any], chances: Mapping[str, float | None]) -> None:
    """Grouped bars, a group for each task."""
    tasks = sort_tasks(view.x_values)
    width = 0.8 / len(values)
    for index, value in enumerate(values):
        points = view.lines.get(value, ())
        places = [tasks.index(point.x) + width * (index - (len(values) - 1) / 2) for point in points]
        axes.bar(places, [point.y for point in points], 0.92 * width, **build_bar_look(index, len(values)))
        axes.errorbar(
            places,
            [point.y for point in points],
            yerr=[point.error or 0.0 for point in points],
            fmt="none",
            ecolor="black",
            elinewidth=0.7,
            capsize=1.2,
        )
    for place, task in enumerate(tasks):
        if chance := chances[task]:  # a chance level of 0 is the axis
            ends = [place - 0.46, place + 0.46]
            axes.plot(ends, [chance, chance], color="white", linewidth=1.6)  # else unseen on dark bars
            axes.plot(ends, [chance, chance], color="black", linestyle=(0, (3, 2)), linewidth=0.9)
    axes.set_xticks(range(len(tasks)), [wrap_name(task) for task in tasks])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("accuracy")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.grid(axis="y")


def build_bar_look(index: int, count: int) -> dict[str, Any]:
    """Colour and hatch of a bar: either tells the bars apart."""
    look = select_style(index, count)
    return {
        "facecolor": look.colour,
        "hatch": look.hatch,
        "edgecolor": "white" if look.hatch else look.colour,
        "linewidth": 0.3,
    }


def select_bar_values(values: Sequence[Any]) -> list[Any]:
    """At most `MOST_BARS` values, evenly spread, the first and the last among them."""
    if len(values) <= MOST_BARS:
        return list(values)
    steps = (len(values) - 1) / (MOST_BARS - 1)
    return [values[round(index * steps)] for index in range(MOST_BARS)]
