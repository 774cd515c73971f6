"""Scores of single tasks: bars by task; printed tables of tasks and of seeds in CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from jobs.store.paths import open_replacement
from sweep.catalog.chance import load_chances
from sweep.results.figures.panels import FigurePanel, FigureView
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
    SLICE_AXES,
    GridSlice,
    Measure,
    Row,
    build_slice,
    is_axis_varied,
    list_seeds,
    make_sort_key,
    normalise_axis_value,
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


# Tables to print.


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """A table for a paper. Numbers are fractions of 1, written in percent in Markdown and LaTeX, in full in CSV."""

    name: str
    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str | float | None]]

    def format_cells(self) -> list[list[str]]:
        """Head and lines as text, percent with two places."""
        body = [
            [cell if isinstance(cell, str) else "-" if cell is None else f"{100 * cell:.2f}" for cell in line]
            for line in self.lines
        ]
        return [list(self.head), *body]

    def render_csv(self) -> str:
        """Head and lines; an unknown number is empty."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.lines])
        return text.getvalue()

    def render_markdown(self) -> str:
        """The table with its title."""
        head, *body = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in self.format_cells()]
        rule = " | ".join("---" if self.is_text(column) else "---:" for column in range(len(self.head)))
        return "\n".join([f"{self.title}", "", *(f"| {line} |" for line in (head, rule, *body))]) + "\n"

    def render_latex(self) -> str:
        """A tabular with the rules of booktabs."""
        head, *body = [" & ".join(map(escape_latex, line)) + r" \\" for line in self.format_cells()]
        columns = "".join("l" if self.is_text(column) else "r" for column in range(len(self.head)))
        lines = [f"% {self.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def is_text(self, column: int) -> bool:
        """Whether a column holds words."""
        return any(isinstance(line[column], str) for line in self.lines)


def escape_latex(text: str) -> str:
    """Text with the characters escaped that LaTeX reads as commands."""
    for sign in "\\&%$#_{}":
        text = text.replace(sign, r"\textbackslash " if sign == "\\" else f"\\{sign}")
    return text


def build_tasks_table(rows: Sequence[Row]) -> PrintedTable | OmittedFigure:
    """Every task's accuracy for each value of the compared axis: with and without images, as in the study's table 3."""
    name = "table_tasks"
    axis = find_compared_axis(rows)
    if axis is None:
        return OmittedFigure(name, "nothing to compare: no axis has scores at two values")
    views = [build_slice(expand_tasks(rows, kind), TASK_SCORE, "task", axis) for kind in KINDS]
    found = [view for view in views if view.lines]
    tasks = [task for view in found for task in sort_tasks(view.x_values)]
    values = list(dict.fromkeys(value for view in found for value in view.lines))
    scores = {(value, point.x): point.y for view in found for value, points in view.lines.items() for point in points}
    lines = [[format_axis_label(axis, value), *(scores.get((value, task)) for task in tasks)] for value in values]
    held = format_held_axes(found[0].held, list_varied_axes(rows))
    title = join_sentences(f"accuracy in each task by {AXIS_WORDS[axis]}, in percent", held)
    return PrintedTable(name, title, [AXIS_WORDS[axis], *tasks], lines)


def build_seeds_table(rows: Sequence[Row]) -> PrintedTable | OmittedFigure:
    """Every model that was trained with several seeds, by task: each seed's accuracy and how far they lie apart.

    As in the study's table 7. The last column is the largest difference between two seeds.
    """
    name = "table_seeds"
    varied = list_varied_axes(rows)
    families: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        if row["scores"]:
            key = tuple(normalise_axis_value(row, axis) for axis in SLICE_AXES)
            families.setdefault(key, {})[list_seeds(row)] = row
    repeated = {key: family for key, family in families.items() if len(family) > 1}
    if not repeated:
        return OmittedFigure(name, "no model with scores of two seeds")
    seeds = sorted(
        {seed for family in repeated.values() for seed in family},
        key=lambda seed: [make_sort_key(each) for each in seed],
    )
    lines: list[list[str | float | None]] = []
    for key, family in repeated.items():
        accuracies = {
            seed: {task["task"]: task["score"] for task in row["scores"] if task["kind"] in KINDS}
            for seed, row in family.items()
        }
        settings = dict(zip(SLICE_AXES, key, strict=True))
        words = [format_setting(axis, settings[axis]) for axis in varied]
        for task in sorted({task for each in accuracies.values() for task in each}):
            values = [accuracies.get(seed, {}).get(task) for seed in seeds]
            known = [value for value in values if value is not None]
            lines.append([*words, task, *values, max(known) - min(known) if len(known) > 1 else None])
    head = [
        *(AXIS_WORDS.get(axis, axis) for axis in varied),
        "task",
        *format_seeds(seeds),
        "largest difference",
    ]
    return PrintedTable(name, "Accuracy by seed, in percent.", head, lines)


def format_setting(axis: str, value: Any) -> str:
    """A value of an axis in a table; `-` for none."""
    return "-" if value is None or value == () else format_axis_label(axis, value)


def format_seeds(seeds: Sequence[tuple[Any, ...]]) -> list[str]:
    """`seed 7`; of several seeds in a model only those that differ, as in `seed 124/7`."""
    varied = [place for place in range(len(seeds[0])) if len({seed[place] for seed in seeds}) > 1]
    return ["seed " + "/".join(str(seed[place]) for place in varied) for seed in seeds]


def save_table(table: PrintedTable, folder: Path, name: str) -> list[Path]:
    """Writes the three forms and returns the paths."""
    forms = {"csv": table.render_csv(), "md": table.render_markdown(), "tex": table.render_latex()}
    for kind, text in forms.items():
        with open_replacement(folder / f"{name}.{kind}") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [folder / f"{name}.{kind}" for kind in forms]
