"""All that the page of one sweep holds, from the tables that `sweep.results` has just written and their evidence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from jobs.counted import format_counted
from jobs.reconcile.state import JobState
from sweep.page.charts import PageFigure, build_difference_figures, build_loss_figure, iter_score_figures
from sweep.page.curves import build_curves_json, choose_curve_points, load_thin_curves
from sweep.page.heat_map import GridCell, HeatMap, build_grid_cells, build_heat_map, format_own_value, list_varied
from sweep.page.sections import (
    HoursSection,
    PageAxis,
    Provenance,
    build_hours_section,
    choose_hours_unit,
    count_job_states,
    list_page_axes,
    read_provenance,
)
from sweep.page.tables import FEW_DIGITS, ColumnKind, PageColumn, PageTable, round_number
from sweep.page.timeline import PageExecution, build_timeline_figures
from sweep.phases import PHASES
from sweep.report.history import build_history_entry, describe_followup
from sweep.results.evidence import JobEvidence
from sweep.results.figures.words import format_axis_text
from sweep.results.slices import MEASURES, SUMMARISED_MEASURES, Row
from sweep.results.summary import list_remarks
from sweep.results.write import WrittenTables
from sweep.stored_sweep import StoredSweep

FORMAT = 1


@dataclass(frozen=True, slots=True)
class PageContent:
    """The page's parts."""

    sweep: str
    written_at: float
    """Unix seconds."""
    cells: int
    jobs: int
    models: int
    states: Sequence[tuple[str, int]]
    """Jobs by state."""
    axes: Sequence[PageAxis]
    heat_map: HeatMap
    answers: Sequence[str]
    """One line each: the best model, what is missing."""
    figures: Mapping[str, Sequence[PageFigure]]
    """By section."""
    hours: HoursSection
    tables: Mapping[str, PageTable]
    provenance: Provenance
    next_step: str
    curve_points: int
    data: Mapping[str, Any]
    """What the page's program reads."""


def build_page_content(stored: StoredSweep, tables: WrittenTables, now: float) -> PageContent:
    """The content at that moment. Raises OSError where a table cannot be read."""
    jobs = tables.jobs.drop_columns(["versions"]).to_pylist()
    rows = tables.rows
    cells = build_grid_cells(rows, {cell.name: cell.axes for cell in stored.manifest.cells})
    trained = [job["key"] for job in jobs if (phase := PHASES.get(job["phase"])) and phase.trains and job["attempts"]]
    curves = load_thin_curves(stored.paths.results / "metrics.parquet", trained)
    differences = pq.read_table(stored.paths.results / "differences.parquet").to_pylist()
    executions = list_executions(tables.evidence, now)
    phases = {job["key"]: job["phase"] for job in jobs}
    losses = build_loss_figure(tables.chains, phases, curves)
    unit = choose_hours_unit(jobs)
    page_tables = {
        table.name: table
        for table in (
            build_cells_table(cells),
            build_models_table(rows, unit),
            build_jobs_table(jobs, unit),
            build_failures_table(executions, jobs),
            build_effects_table(differences),
        )
    }
    states = count_job_states(jobs)
    return PageContent(
        sweep=stored.manifest.sweep,
        written_at=now,
        cells=len(cells),
        jobs=len(jobs),
        models=len(rows),
        states=states,
        axes=list_page_axes(cells),
        heat_map=build_heat_map(cells),
        answers=list_remarks(rows),
        figures={
            "scores": list(iter_score_figures(rows)),
            "effects": build_difference_figures(differences),
            "losses": [losses] if losses else [],
            "times": build_timeline_figures(tables.chains, executions),
        },
        hours=build_hours_section(jobs, unit),
        tables=page_tables,
        provenance=read_provenance(stored, tables.evidence.values()),
        next_step=choose_next_step(stored.manifest.sweep, dict(states)),
        curve_points=choose_curve_points(len(trained)),
        data={
            "format": FORMAT,
            "sweep": stored.manifest.sweep,
            "tables": [table.build_json() for table in page_tables.values()],
            "cells": build_cells_json(cells, tables, jobs),
            "measures": [
                {"name": each.name, "title": each.title, "higher": each.higher_is_better}
                for each in SUMMARISED_MEASURES
            ],
            "executions": build_executions_json(executions, jobs),
            "curves": build_curves_json(curves, {job["key"]: place for place, job in enumerate(jobs)}),
            "tasks": build_tasks_json(tables),
            "phases": list(PHASES),
        },
    )


def choose_next_step(sweep: str, states: Mapping[str, int]) -> str:
    """The command that a reader of the page would type next."""
    failed = states.get(JobState.FAILED.value, 0)
    if failed:
        return f"sweep resume {sweep}"
    open_states = (JobState.READY, JobState.INTERRUPTED, JobState.WAITING)
    if any(states.get(state.value) for state in (JobState.RUNNING, JobState.QUEUED)):
        return f"sweep status {sweep}"
    if any(states.get(state.value) for state in open_states):
        return f"sweep submit {sweep}"
    if states.get(JobState.CANCELLED.value):
        return f"sweep resume {sweep}"
    return f"sweep export {sweep} CELL"


# Executions: what ran when, and how it ended.


def list_executions(evidence: Mapping[str, JobEvidence], now: float) -> list[PageExecution]:
    """All executions that began, job by job."""
    found = []
    for key, job in evidence.items():
        for place, outcome in enumerate(job.outcomes):
            followed = describe_followup(job.job, job.outcomes, place, job.state) if job.job.config else ""
            entry = build_history_entry(outcome, followed)
            if not entry.started_at > 0:
                continue
            lasted = entry.seconds
            end = entry.started_at + lasted if lasted is not None else max(now, entry.started_at)
            found.append(
                PageExecution(
                    key=key,
                    phase=job.job.phase,
                    attempt=entry.attempt or entry.id,
                    node=entry.node,
                    start=entry.started_at,
                    end=end,
                    ended=entry.ended,
                    message=entry.message,
                    then=entry.then,
                    lasted=lasted,
                )
            )
    return found


def build_executions_json(executions: Sequence[PageExecution], jobs: Sequence[Row]) -> dict[str, Any]:
    """Columns; times as whole seconds after the first start, words once."""
    places = {job["key"]: place for place, job in enumerate(jobs)}
    words: dict[str, int] = {}
    for each in executions:
        for word in (each.node, each.ended, each.message, each.then):
            words.setdefault(word, len(words))
    first = round(min((each.start for each in executions), default=0.0))
    return {
        "first": first,
        "words": list(words),
        "rows": [
            [
                places[each.key],
                round(each.start) - first,
                None if each.lasted is None else round(each.lasted),
                words[each.ended],
                words[each.node],
                words[each.message],
                words[each.then],
            ]
            for each in executions
        ],
    }


# Tables.


def take(rows: Iterable[Row], name: str) -> list[Any]:
    """One column."""
    return [row[name] for row in rows]


def build_cells_table(cells: Sequence[GridCell]) -> PageTable:
    """One row for each cell: its axes, its state, its best scores."""
    axes = [
        PageColumn(name, name.replace("_", " "), [format_axis_cell(cell.axes.get(name)) for cell in cells])
        for name in list_varied(cell.axes for cell in cells)
    ]
    scores = [
        PageColumn(
            each.name,
            f"best {each.title.lower()}",
            [cell.scores.get(each.name) for cell in cells],
            ColumnKind.NUMBER,
            3,
        )
        for each in SUMMARISED_MEASURES
        if any(each.name in cell.scores for cell in cells)
    ]
    return PageTable(
        "cells",
        "Cells: a point of the grid each, with the best score of its fine-tuned models",
        [
            PageColumn("cell", "cell", [cell.name for cell in cells], ColumnKind.CELL),
            PageColumn("block", "block", [cell.block for cell in cells], shown=len({cell.block for cell in cells}) > 1),
            PageColumn("state", "state", [cell.state for cell in cells]),
            PageColumn("finished", "finished", [cell.finished for cell in cells], ColumnKind.NUMBER),
            PageColumn("models", "models", [cell.models for cell in cells], ColumnKind.NUMBER),
            *axes,
            *scores,
        ],
    )


def format_axis_cell(value: Any) -> str:
    """A value of an axis as it stands in the sweep file."""
    return "" if value is None else format_own_value(value)


SHORT_UNITS = {"a100": "A100-h", "cpu": "core-h"}


def build_models_table(rows: Sequence[Row], unit: str) -> PageTable:
    """One row for each fine-tuned model: scores with their errors, losses, hours."""
    short, hours = SHORT_UNITS[unit], f"{unit}_hours"
    columns = [
        PageColumn("cell", "cell", take(rows, "cell"), ColumnKind.CELL),
        PageColumn("epochs", "epochs", take(rows, "epochs"), ColumnKind.NUMBER),
        PageColumn("state", "state", take(rows, "state")),
    ]
    for measure in MEASURES:
        if any(row[measure.column] is not None for row in rows):
            columns.append(
                PageColumn(measure.name, measure.title.lower(), take(rows, measure.column), ColumnKind.NUMBER, 3)
            )
            if measure.stderr:
                columns.append(
                    PageColumn(f"{measure.name}_error", "±", take(rows, measure.stderr), ColumnKind.NUMBER, 3)
                )
    return PageTable(
        "models",
        "Fine-tuned models: scores are accuracy above chance, ± the standard error of the test set",
        [
            *columns,
            PageColumn("pretrain_loss", "image-text loss", take(rows, "pretrain_loss"), ColumnKind.NUMBER, 3),
            PageColumn("finetune_loss", "fine-tune loss", take(rows, "finetune_loss"), ColumnKind.NUMBER, 3),
            PageColumn("hours_own", f"{short} own", take(rows, f"{hours}_own"), ColumnKind.HOURS),
            PageColumn("hours_shared", f"{short} shared", take(rows, f"{hours}_shared"), ColumnKind.HOURS),
            PageColumn("key", "key", take(rows, "key"), shown=False),
        ],
    )


def build_jobs_table(jobs: Sequence[Row], unit: str) -> PageTable:
    """One row for each job."""
    short, hours = SHORT_UNITS[unit], f"{unit}_hours"
    return PageTable(
        "jobs",
        "Jobs: each once, however many cells share it",
        [
            PageColumn("key", "key", take(jobs, "key")),
            PageColumn("phase", "phase", take(jobs, "phase")),
            PageColumn("model", "model", take(jobs, "model"), shown=len(set(take(jobs, "model"))) > 1),
            PageColumn("cell", "cell", [name_cells(job) for job in jobs], ColumnKind.CELL),
            PageColumn("state", "state", take(jobs, "state")),
            PageColumn("attempts", "attempts", take(jobs, "attempts"), ColumnKind.NUMBER),
            PageColumn("node", "node", take(jobs, "node")),
            PageColumn("started", "started (UTC)", [find_seconds(job["started_at"]) for job in jobs], ColumnKind.TIME),
            PageColumn("finished", "ended (UTC)", [find_seconds(job["finished_at"]) for job in jobs], ColumnKind.TIME),
            PageColumn("planned", f"{short} planned", take(jobs, f"planned_{hours}"), ColumnKind.HOURS),
            PageColumn("used", "used", take(jobs, f"used_{hours}"), ColumnKind.HOURS),
            PageColumn("wasted", "wasted", take(jobs, f"wasted_{hours}"), ColumnKind.HOURS),
            PageColumn("speed", "tokens/s", take(jobs, "tokens_per_second"), ColumnKind.NUMBER),
            PageColumn("loss", "loss", take(jobs, "loss"), ColumnKind.NUMBER, 3),
            PageColumn("failure", "failure", take(jobs, "failure")),
        ],
    )


def name_cells(job: Row) -> str:
    """The cell that a job belongs to; how many more there are."""
    cells = job["cells"] or []
    return (cells[0] if len(cells) == 1 else format_counted(len(cells), "cell")) if cells else ""


def find_seconds(moment: Any) -> int | None:
    """Unix seconds."""
    return None if moment is None else round(moment.timestamp())


def build_failures_table(executions: Sequence[PageExecution], jobs: Sequence[Row]) -> PageTable:
    """One row for each execution that did not end well, the newest first."""
    failed = [each for each in executions if each.ended not in {"done", "running", "nothing"}]
    failed.sort(key=lambda each: -each.end)
    cells = {job["key"]: name_cells(job) for job in jobs}
    states = {job["key"]: job["state"] for job in jobs}
    return PageTable(
        "failures",
        "Executions that failed or were interrupted, the newest first, and what was done",
        [
            PageColumn("ended", "ended (UTC)", [round(each.end) for each in failed], ColumnKind.TIME),
            PageColumn("phase", "phase", [each.phase for each in failed]),
            PageColumn("cell", "cell", [cells.get(each.key, "") for each in failed], ColumnKind.CELL),
            PageColumn("reason", "reason", [each.ended for each in failed]),
            PageColumn("message", "message", [each.message for each in failed]),
            PageColumn("then", "what was done", [each.then for each in failed]),
            PageColumn("state", "job is now", [states.get(each.key, "") for each in failed]),
            PageColumn("node", "node", [each.node for each in failed]),
            PageColumn("attempt", "attempt", [each.attempt for each in failed], shown=False),
            PageColumn("key", "key", [each.key for each in failed]),
        ],
    )


def build_effects_table(differences: Sequence[Row]) -> PageTable:
    """One row for each difference of differences.parquet."""
    titles = {each.name: each.title.lower() for each in SUMMARISED_MEASURES}
    several = len({row["model"] for row in differences}) > 1
    return PageTable(
        "effects",
        "Effects: the score at the second value minus that at the first, from models that are equal in all else",
        [
            PageColumn("model", "model", take(differences, "model"), shown=several),
            PageColumn("axis", "axis", [str(row["axis"]).replace("_", " ") for row in differences]),
            *(
                PageColumn(side, side, [format_axis_text(row["axis"], row[side]) for row in differences])
                for side in ("first", "second")
            ),
            PageColumn("score", "score", [titles.get(row["score"], row["score"]) for row in differences]),
            PageColumn("difference", "difference", take(differences, "difference"), ColumnKind.NUMBER, 3),
            PageColumn("low", "95 % from", take(differences, "low"), ColumnKind.NUMBER, 3),
            PageColumn("high", "to", take(differences, "high"), ColumnKind.NUMBER, 3),
            PageColumn("p_holm", "p (Holm)", take(differences, "p_holm"), ColumnKind.P_VALUE),
            PageColumn("pairs", "pairs", take(differences, "pairs"), ColumnKind.NUMBER),
        ],
    )


# What opening a cell needs.


def build_cells_json(cells: Sequence[GridCell], tables: WrittenTables, jobs: Sequence[Row]) -> dict[str, Any]:
    """Of each cell: all axes, rows of its jobs (parents first) and of its models."""
    places = {job["key"]: place for place, job in enumerate(jobs)}
    chain_jobs: dict[str, dict[int, None]] = {}
    models: dict[str, list[int]] = {}
    for number, chain in enumerate(tables.chains):
        chain_jobs.setdefault(chain.cell.name, {}).update(dict.fromkeys(places[key] for key in chain.keys))
        models.setdefault(chain.cell.name, []).append(number)
    axes = {name: [format_axis_cell(cell.axes.get(name)) for cell in cells] for name in list_axis_names(cells)}
    return {
        "names": [cell.name for cell in cells],
        "axes": {name: values[0] if len(set(values)) == 1 else values for name, values in axes.items()},
        "jobs": [list(chain_jobs[cell.name]) for cell in cells],
        "models": [models[cell.name] for cell in cells],
        "scores": {
            each.name: [round_number(cell.scores.get(each.name), FEW_DIGITS) for cell in cells]
            for each in SUMMARISED_MEASURES
            if any(each.name in cell.scores for cell in cells)
        },
    }


def list_axis_names(cells: Sequence[GridCell]) -> list[str]:
    """Names of all axes, also of those that do not vary."""
    return list(dict.fromkeys(name for cell in cells for name in cell.axes))


def build_tasks_json(tables: WrittenTables) -> dict[str, Any]:
    """The scores by task: for each model a flat list of task, score, low and high, these three in ten thousandths.

    A task's number of questions stands with the task; null where the models differ in it.
    """
    tasks: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    rows = []
    for scores in tables.results.column("scores").to_pylist():
        row: list[Any] = []
        for each in scores or ():
            name = each["task"]
            chance = round_number(each["chance"], FEW_DIGITS)
            task = tasks.setdefault(name, {"name": name, "kind": each["kind"], "chance": chance, "n": each["n"]})
            if task["n"] != each["n"]:
                task["n"] = None
            row += [
                places.setdefault(name, len(places)),
                *(scale_score(each[part]) for part in ("score", "low", "high")),
            ]
        rows.append(row)
    return {"tasks": list(tasks.values()), "rows": rows}


def scale_score(value: float | None) -> int | str | None:
    """In ten thousandths; what is no finite number as a word."""
    if value is None:
        return None
    return round(10_000 * value) if math.isfinite(value) else str(value)
