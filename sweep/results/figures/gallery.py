"""Which figures and printed tables a sweep allows; writes them, with captions.md, and removes those of before."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.store.paths import open_replacement
from sweep.results.figures.curves import draw_learning_rates, draw_losses, load_curves, select_branched_runs
from sweep.results.figures.differences import draw_differences, draw_differences_by_mix, load_contrasts
from sweep.results.figures.planes import draw_heat_map, draw_score_by_cost, draw_text_against_vision
from sweep.results.figures.printed import PrintedTable, build_seeds_table, build_tasks_table, save_table
from sweep.results.figures.scores import draw_overview, draw_scores_by_axis, draw_scores_by_size, draw_sizes
from sweep.results.figures.style import DrawnFigure, OmittedFigure, apply_style, save_figure
from sweep.results.figures.tasks import draw_tasks, draw_tasks_by_branch
from sweep.results.slices import MEASURES, VIEWS, Row

logger = logging.getLogger(__name__)

Entry = DrawnFigure | OmittedFigure | PrintedTable

NAMES = {
    *(f"score_by_{axis}" for axis in (*(view.x for view in VIEWS), "size", "cost")),
    *("overview", "sizes", "heat_map", "text_against_vision", "loss", "learning_rate"),
    *("tasks", "tasks_by_branch", "table_tasks", "table_seeds", "differences", "differences_by_mix"),
}
"""Of all figures and tables, without model and format."""
SUFFIXES = (".png", ".pdf", ".svg", ".csv", ".md", ".tex")


@dataclass(frozen=True, slots=True)
class FigureData:
    """What the figures of one sweep are drawn from."""

    sweep: str
    rows: Sequence[Row]
    """Rows of results.parquet."""
    jobs: Sequence[Mapping[str, Any]]
    """Rows of jobs.parquet: `key` and `parents`."""
    metrics: Path
    """metrics.parquet."""
    contrasts: Path
    """contrasts.parquet."""


def draw_figures(data: FigureData, folder: Path, formats: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Writes the figures and tables that the data allow and deletes older ones that they no longer allow.

    `folder`: in the sweep's results folder, made if it is not there; `formats`: some of png, pdf, svg. Returns the
    paths, and a remark for each group of figures that is left out, with the reason.
    """
    written: list[Path] = []
    captions: list[str] = []
    omitted: dict[tuple[str, str], list[str]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with apply_style():
        for model, entry in iter_entries(data):
            name = f"{entry.name}-{model}" if model else entry.name
            if isinstance(entry, OmittedFigure):
                omitted.setdefault((model, entry.reason), []).append(entry.name)
                continue
            if isinstance(entry, PrintedTable):
                written += save_table(entry, folder, name)
            else:
                written += save_figure(entry.figure, folder, name, formats)
                captions.append(f"**{name}**: {entry.title}{f', model {model}' if model else ''}. {entry.caption}")
            logger.info("%s: written", folder / name)
    if captions:
        written.append(write_captions(folder, data.sweep, captions))
    earlier = {path for pattern in ("score_by_*.png", "overview*.png") for path in folder.parent.glob(pattern)}
    for stale in (list_own_files(folder) - set(written)) | earlier:  # figures lay beside the tables once
        stale.unlink()
    remarks = [
        f"{f'{model}: ' if model else ''}not drawn: {', '.join(names)}: {reason}"
        for (model, reason), names in omitted.items()
    ]
    return written, remarks


def iter_entries(data: FigureData) -> Iterator[tuple[str, Entry]]:
    """Every figure and table, drawn or left out, with its model's name; that is empty where there is a single model."""
    all_rows = [drop_non_finite_scores(row) for row in data.rows]
    models = list(dict.fromkeys(str(row["model"]) for row in all_rows))
    contrasts = load_contrasts(data.contrasts)
    for model in models:
        rows = [row for row in all_rows if str(row["model"]) == model]
        suffix = model if len(models) > 1 else ""
        for entry in iter_model_entries(data, rows):
            yield suffix, entry
        of_model = [each for each in contrasts if each["model"] == model]
        yield suffix, draw_differences(of_model)
        yield suffix, draw_differences_by_mix(of_model)
    for draw in (draw_sizes, draw_scores_by_size, draw_score_by_cost):
        yield "", draw(all_rows)


def iter_model_entries(data: FigureData, rows: Sequence[Row]) -> Iterator[Entry]:
    """The figures and tables of one model."""
    yield draw_overview(rows)
    for view in VIEWS:
        yield draw_scores_by_axis(rows, view)
    for draw in (draw_heat_map, draw_text_against_vision, draw_tasks, draw_tasks_by_branch):
        yield draw(rows)
    for build in (build_tasks_table, build_seeds_table):
        yield build(rows)
    runs = select_branched_runs(rows, data.jobs)
    curves = load_curves(data.metrics, {*runs.trunk, *runs.branches.values()})
    yield draw_losses(runs, curves)
    yield draw_learning_rates(runs, curves)


def drop_non_finite_scores(row: Row) -> Row:
    """The row without scores that have no place on an axis: a diverged model's loss is infinite or no number."""
    lost = [each.column for each in MEASURES if row[each.column] is not None and not math.isfinite(row[each.column])]
    return {**row, **dict.fromkeys(lost)} if lost else row


def write_captions(folder: Path, sweep: str, captions: Sequence[str]) -> Path:
    """Writes captions.md, a paragraph for each figure, and returns its path."""
    path = folder / "captions.md"
    with open_replacement(path) as unfinished:
        unfinished.write_text("\n\n".join([f"# Figures of sweep {sweep}", *captions]) + "\n", encoding="utf-8")
    return path


def list_own_files(folder: Path) -> set[Path]:
    """The files in the folder that this program writes there: figures and tables of any model, the captions."""
    return {
        path
        for path in folder.iterdir()
        if path.name == "captions.md" or (path.suffix in SUFFIXES and path.stem.partition("-")[0] in NAMES)
    }
