"""The grid of cells as tables: two axes across and down, one table for each combination of the others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.reconcile.state import JobState
from sweep.page.drawing import format_minus
from sweep.results.figures.words import AXIS_LABELS, format_axis_label
from sweep.results.slices import SUMMARISED_MEASURES, Measure, Row, is_seed, sort_values

FIRST_AXES = ("branch", "image_share")
LEVELS = 9
"""Colours of a score."""
NOT_SET = "not set"
"""In place of an axis' value, for a cell whose block does not name the axis."""
WORST_FIRST = (
    JobState.FAILED,
    JobState.BLOCKED,
    JobState.UNKNOWN,
    JobState.CANCELLED,
    JobState.INTERRUPTED,
    JobState.RUNNING,
    JobState.QUEUED,
    JobState.READY,
    JobState.WAITING,
    JobState.DONE,
)
"""Of a cell whose models are in several states, the first of these is shown."""


@dataclass(frozen=True, slots=True)
class GridCell:
    """A cell with what the page shows of it."""

    name: str
    block: str
    axes: Mapping[str, Any]
    state: str
    finished: int
    models: int
    scores: Mapping[str, float]
    """The best score of its models, by the measure's name."""


@dataclass(frozen=True, slots=True)
class HeatPlace:
    """A cell in its table."""

    cell: GridCell
    text: str
    level: int | None
    """Colour; None without a score."""


@dataclass(slots=True)
class HeatPanel:
    """One table."""

    title: str
    across: Sequence[str]
    rows: list[tuple[str, list[HeatPlace | None]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """All tables of a sweep, by one measure."""

    across: str
    down: str
    measure: Measure | None
    panels: Sequence[HeatPanel]
    lowest: float | None
    highest: float | None


def build_grid_cells(rows: Sequence[Row], axes: Mapping[str, Mapping[str, Any]]) -> list[GridCell]:
    """One for each cell, in the plan's order. `rows`: of results.parquet; `axes`: of each cell, by name."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["cell"], []).append(row)
    return [build_grid_cell(name, models, axes.get(name, {})) for name, models in groups.items()]


def build_grid_cell(name: str, models: Sequence[Row], axes: Mapping[str, Any]) -> GridCell:
    """One cell from the rows of its models."""
    states = Counter(row["state"] for row in models)
    state = next((each.value for each in WORST_FIRST if states[each.value]), next(iter(states)))
    scores = {}
    for measure in SUMMARISED_MEASURES:
        found = [row[measure.column] for row in models if row[measure.column] is not None]
        found = [value for value in found if abs(value) < float("inf")]
        if found:
            scores[measure.name] = max(found) if measure.higher_is_better else min(found)
    return GridCell(name, models[0]["block"] or "", axes, state, states["done"], len(models), scores)


def list_varied(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the axes in which cells differ, the study's first, then those with most values. `cells`: their axes.

    A branch point's step is none: it says the same again, for the cells alone whose branch is given as a step.
    """
    values: dict[str, set[str]] = {}
    for axes in cells:
        for name in {*axes, *values} - {"branch_step"}:
            values.setdefault(name, set()).add(repr(axes.get(name)))
    varied = sorted(
        (name for name in values if len(values[name]) > 1), key=lambda name: (is_seed(name), -len(values[name]), name)
    )
    return sorted(varied, key=lambda name: FIRST_AXES.index(name) if name in FIRST_AXES else len(FIRST_AXES))


def choose_measure(cells: Sequence[GridCell]) -> Measure | None:
    """The first score that any cell has."""
    return next(
        (measure for measure in SUMMARISED_MEASURES if any(measure.name in cell.scores for cell in cells)), None
    )


def build_heat_map(cells: Sequence[GridCell]) -> HeatMap:
    """The grid by the first score that there is; by states alone without any."""
    varied = list_varied(cell.axes for cell in cells)
    across, down, *others = [*varied, "", ""]
    others = [name for name in others if name]
    measure = choose_measure(cells)
    scores = [cell.scores[measure.name] for cell in cells if measure and measure.name in cell.scores]
    lowest, highest = min(scores, default=None), max(scores, default=None)
    panels: dict[Any, list[GridCell]] = {}
    taken: Counter[Any] = Counter()
    for cell in cells:
        key = tuple(freeze(cell.axes.get(name)) for name in others)
        place = (key, freeze(cell.axes.get(across)), freeze(cell.axes.get(down)))
        # cells that differ in what is no axis (two blocks may name one point) get a table of their own
        panels.setdefault((key, taken[place]), []).append(cell)
        taken[place] += 1
    built = [
        build_panel(
            name_panel(others, found[0]), found, across, down, lambda cell: place_cell(cell, measure, lowest, highest)
        )
        for found in panels.values()
    ]
    return HeatMap(across, down, measure, built, lowest, highest)


def freeze(value: Any) -> Any:
    """The value as a key."""
    return repr(value) if isinstance(value, (list, dict)) else value


def name_panel(others: Sequence[str], cell: GridCell) -> str:
    """The values of the axes that a panel holds."""
    return ", ".join(f"{name.replace('_', ' ')} {format_value(name, cell.axes.get(name))}" for name in others)


def format_value(axis: str, value: Any) -> str:
    """A value of an axis, and a word where the cell has none."""
    if value is None:
        return NOT_SET
    return format_axis_label(axis, value) if axis in AXIS_LABELS else format_own_value(value)


def format_own_value(value: Any) -> str:
    """A value of an axis that is a setting of the sweep file, as it stands there; a list without its brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(format_own_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def build_panel(title: str, cells: Sequence[GridCell], across: str, down: str, place: Any) -> HeatPanel:
    """One table."""
    names = {
        axis: {freeze(cell.axes.get(axis)): format_value(axis, cell.axes.get(axis)) for cell in cells}
        for axis in (across, down)
    }
    columns, lines = sort_values(names[across]), sort_values(names[down])
    by_place = {(freeze(cell.axes.get(across)), freeze(cell.axes.get(down))): cell for cell in cells}
    panel = HeatPanel(title, [names[across][value] for value in columns] if across else [cells[0].name])
    for line in lines:
        found = [by_place.get((column, line)) for column in columns]
        # without a second axis there is one row, of all cells
        panel.rows.append((names[down][line] if down else "cells", [place(cell) if cell else None for cell in found]))
    return panel


def place_cell(cell: GridCell, measure: Measure | None, lowest: float | None, highest: float | None) -> HeatPlace:
    """What stands at the cell's place: its score, else how many of its models are finished."""
    score = cell.scores.get(measure.name) if measure else None
    if measure is None or score is None or lowest is None or highest is None:
        return HeatPlace(cell, cell.state if not cell.finished else f"{cell.finished}/{cell.models}", None)
    part = (score - lowest) / ((highest - lowest) or 1.0)
    return HeatPlace(cell, format_minus(f"{score:.2f}"), min(int(part * LEVELS), LEVELS - 1))
