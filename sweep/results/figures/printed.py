"""Tables to print, in CSV, Markdown and LaTeX: accuracy by task, and by seed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.store.paths import open_replacement
from sweep.results.figures.style import OmittedFigure
from sweep.results.figures.tasks import KINDS, TASK_SCORE, expand_tasks, find_compared_axis, sort_tasks
from sweep.results.figures.words import (
    AXIS_WORDS,
    format_axis_label,
    format_held_axes,
    join_sentences,
    list_varied_axes,
)
from sweep.results.slices import SLICE_AXES, Row, build_slice, list_seeds, make_sort_key, normalise_axis_value

# A table and its three forms.


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


def save_table(table: PrintedTable, folder: Path, name: str) -> list[Path]:
    """Writes the three forms and returns the paths."""
    forms = {"csv": table.render_csv(), "md": table.render_markdown(), "tex": table.render_latex()}
    for kind, text in forms.items():
        with open_replacement(folder / f"{name}.{kind}") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return [folder / f"{name}.{kind}" for kind in forms]


# The tables.


def build_tasks_table(rows: Sequence[Row]) -> PrintedTable | OmittedFigure:
    """Every task's accuracy for each value of the compared axis: with and without images, as in the study's table 3."""
    name = "table_tasks"
    axis = find_compared_axis(rows)
    if axis is None:
        return OmittedFigure(name, "nothing to compare: no axis has scores at two values")
    views = [build_slice(expand_tasks(rows, kind), TASK_SCORE, "task", axis) for kind in KINDS]
    found = [view for view in views if view.lines]
    if not found:
        return OmittedFigure(name, "no task of vision or text has a score")
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
    """`seed 7`; of several seeds in a model only those that differ, `-` where one has none: `seed 124/7`."""
    width = max(map(len, seeds))
    padded = [(*seed, *[None] * (width - len(seed))) for seed in seeds]
    varied = [place for place in range(width) if len({seed[place] for seed in padded}) > 1]
    return ["seed " + "/".join("-" if seed[place] is None else str(seed[place]) for place in varied) for seed in padded]
