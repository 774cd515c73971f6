"""`sweep list [NAME [CELL...]]`: the sweeps of a store, or the cells of one sweep, with what is done of each."""

import argparse
import json
import sys
from dataclasses import dataclass

from sweep.arguments import CELLS_HELP
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ListOptions(CommonOptions):
    """What `sweep list` was given."""

    name: str | None
    """None: the sweeps of the store are listed."""
    cells: tuple[str, ...]
    """As `sweep.selection` reads them; empty: all of the sweep."""
    as_json: bool


OPTIONS = ListOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a sweep, whose cells are listed (default: the sweeps)")
    parser.add_argument("cells", nargs="*", default=[], metavar="CELL", help=f"these only (default: all): {CELLS_HELP}")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print it as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep list\n  sweep list demo\n  sweep list demo 'm1m-b50-*'"


def run(options: ListOptions) -> int:
    from jobs.store.paths import Store
    from sweep.next_step import NextStep
    from sweep.report.listing import build_cells_json, build_sweeps_json, format_cells, format_sweeps
    from sweep.stored_sweep import open_sweep
    from sweep.terminal import find_table_width

    if options.name is None:
        report = build_sweeps_json(Store(options.store))
        text = format_sweeps(report, find_table_width())
    else:
        stored = open_sweep(options.store, options.name)
        report = build_cells_json(stored, options.cells)
        text = format_cells(report, find_table_width())
    if options.as_json:
        print(json.dumps(report, indent=1))
        return 0
    print(text)
    for problem in report.get("problems", ()):
        print(f"sweep list: {problem}", file=sys.stderr)
    step, rows = NextStep(options.store), report.get("sweeps", report.get("cells", []))
    if options.name is None and rows:
        print(step.suggest("shows one of them", "status", rows[0]["sweep"]), file=sys.stderr)
    elif rows:
        print(step.suggest("shows one of them", "explain", options.name or "", rows[0]["cell"]), file=sys.stderr)
    return 1 if report.get("problems") else 0
