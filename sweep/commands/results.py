"""`sweep results NAME`: writes tables, summary and figures of what is finished."""

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.counted import format_counted
from sweep.arguments import add_cell_arguments, parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from collections.abc import Collection

    from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)

NEEDED = ("pyarrow", "numpy", "scipy", "matplotlib", "jinja2")
FIGURE_FORMATS = ("png", "pdf", "svg")


@dataclass(frozen=True, kw_only=True)
class ResultsOptions(CommonOptions):
    """What `sweep results` was given."""

    name: str | None
    cells: tuple[str, ...]
    """Whose rows are printed, as `sweep.selection` reads them; empty: all. The files have all cells in any case."""
    as_json: bool
    as_csv: bool
    top: int
    """Models in the printed summary."""
    no_figures: bool
    figure_formats: tuple[str, ...]


OPTIONS = ResultsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="print these only; the files always have all")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", dest="as_json", action="store_true", help="print all rows as JSON (docs/json.md)")
    output.add_argument(
        "--csv", dest="as_csv", action="store_true", help="print the rows as CSV, with a column for each override"
    )
    parser.add_argument(
        "--top", type=parse_positive_int, default=20, metavar="N", help="models in the summary (default: %(default)s)"
    )
    parser.add_argument("--no-figures", action="store_true", help="write the tables only")
    parser.add_argument(
        "--figure-formats",
        type=parse_figure_formats,
        default=FIGURE_FORMATS,
        metavar="LIST",
        help=f"formats of the figures, with commas between (default: {','.join(FIGURE_FORMATS)})",
    )
    parser.epilog = (
        "example:\n  sweep results demo\n  sweep results demo 'm1m-b100-*'\n  sweep results demo --csv > demo.csv"
    )


def parse_figure_formats(text: str) -> tuple[str, ...]:
    """`png,svg` as a tuple, without repetitions."""
    given = tuple(dict.fromkeys(text.split(",")))
    if unknown := [each for each in given if each not in FIGURE_FORMATS]:
        known = ", ".join(FIGURE_FORMATS)
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no format of figures; take some of {known}")
    return given


def run(options: ResultsOptions) -> int:
    from sweep.errors import SweepError
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    stored, words = open_sweep_to_read(options.store, options.name, options.cells)
    cells = stored.name_cells(words)
    if missing := describe_missing_packages():
        raise SweepError(missing)
    with print_user_errors():
        return write_and_print_results(options, stored, cells)


def describe_missing_packages() -> str:
    """What to install for tables and figures; empty where all is there. Ask before importing `sweep.results.write`."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    return f"tables and figures need {' and '.join(missing)}: pip install 'sweep-vlm[report]'" if missing else ""


def refresh_tables(stored: "StoredSweep") -> str:
    """Brings tables and report up to date, where this machine can write them. A remark for the user, or ""."""
    if missing := describe_missing_packages():
        return f"tables are not refreshed: {missing}"
    from sweep.page.refresh import refresh_results

    return refresh_results(stored)


def write_and_print_results(options: ResultsOptions, stored: "StoredSweep", cells: "Collection[str]") -> int:
    """Tables first, figures from them, then the report, which has the rows of `cells`."""
    from sweep.results.comparisons import format_effects
    from sweep.results.summary import list_remarks
    from sweep.results.write import format_hours_summary, format_results_summary, write_summary, write_tables

    tables = write_tables(stored)
    rows = [row for row in (tables.results.to_pylist() if options.as_json else tables.rows) if row["cell"] in cells]
    folder = stored.paths.results
    written = [*tables.paths, write_summary(folder, format_results_summary(tables))]
    left_out: list[str] = []
    if not options.no_figures:
        from sweep.results.figures.gallery import FigureData, draw_figures

        data = FigureData(
            sweep=stored.manifest.sweep,
            rows=tables.results.to_pylist(),
            jobs=tables.jobs.select(["key", "parents"]).to_pylist(),
            metrics=folder / "metrics.parquet",
            contrasts=folder / "contrasts.parquet",
        )
        drawn, left_out = draw_figures(data, folder / "figures", options.figure_formats)
        written += drawn
    print_results(options, rows, written, format_hours_summary(tables), stored.manifest.sweep)
    for remark in [
        *tables.uncounted.list_remarks(),
        *list_remarks(rows),
        *format_effects(tables.differences),
        *list_left_out(left_out),
        f"{format_counted(len(written), 'file')} in {folder}",
    ]:
        print(remark, file=sys.stderr)
    if not (options.as_json or options.as_csv):
        print(suggest_next(options, stored), file=sys.stderr)
    return 1 if tables.uncounted.is_partial else 0


def list_left_out(reasons: "Collection[str]") -> list[str]:
    """One line on figures that are not drawn; each reason is in the log."""
    for reason in reasons:
        logger.info("%s", reason)
    return (
        ["some figures are not drawn, as they compare what this sweep does not vary (-v says which)"] if reasons else []
    )


def suggest_next(options: ResultsOptions, stored: "StoredSweep") -> str:
    """Where a row comes from, if all is done; else how the rest stands."""
    from jobs.store.results import list_finished_keys
    from sweep.next_step import NextStep

    plan, step = stored.manifest, NextStep(options.store)
    if len(list_finished_keys(stored.store, plan.jobs)) < len(plan.jobs):
        return step.suggest("shows what is not done yet", "status", plan.sweep)
    if not plan.cells:  # as in a plan that another program wrote
        return step.suggest("makes a page of it to send", "report", plan.sweep)
    return step.suggest("shows where a row comes from", "explain", plan.sweep, plan.cells[0].name)


def print_results(
    options: ResultsOptions, rows: list[dict[str, Any]], written: list[Path], hours: str, sweep: str
) -> None:
    """The report on stdout."""
    from sweep.results.summary import build_results_json, format_summary_table, join_tables, render_csv

    if options.as_json:
        print(json.dumps(build_results_json(sweep, rows, [str(path) for path in written]), indent=1))
    elif options.as_csv:
        print(render_csv(rows), end="")
    else:
        print(join_tables(format_summary_table(rows, options.top), hours), end="")
