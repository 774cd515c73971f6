"""`sweep costs [NAME [CELL...]]`: what a sweep has cost, what is in flight, what it will cost."""

import argparse
import json
import sys
from dataclasses import dataclass

from sweep.arguments import add_cell_arguments
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class CostsOptions(CommonOptions):
    """What `sweep costs` was given."""

    name: str | None
    """None: that of a store that holds one."""
    cells: tuple[str, ...]
    """As `sweep.selection` reads them: listed one by one."""
    by_cell: bool
    """All cells are."""
    fresh: bool
    as_json: bool


OPTIONS = CostsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="listed one by one, too")
    parser.add_argument("--by-cell", action="store_true", help="list every cell, with its share of what cells share")
    parser.add_argument("--fresh", action="store_true", help="ask Slurm even if it answered less than a minute ago")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep costs paper\n  sweep costs paper 'm79m-*'\n  sweep costs paper --json"


def run(options: CostsOptions) -> int:
    from sweep.next_step import NextStep
    from sweep.plan.manifest import pause_gc
    from sweep.report.costs import format_costs, load_costs
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors
    from sweep.terminal import find_table_width

    with print_user_errors(), pause_gc():
        stored, words = open_sweep_to_read(options.store, options.name, options.cells)
        named = stored.name_cells(words) if words or options.by_cell else frozenset()
        report = load_costs(stored, fresh=options.fresh)
    if options.as_json:
        print(json.dumps(report, indent=1))
        return 0
    print(format_costs(report, named, find_table_width()))
    name, step = stored.manifest.sweep, NextStep(options.store)
    if any(row["held_back"] for row in report["budget"]):
        print(step.suggest("shows the budgets, and raises one with an option", "limits", name), file=sys.stderr)
    elif any(row["done"] < row["jobs"] for row in report["phases"].values()):
        print(step.suggest("says when it ends", "forecast", name), file=sys.stderr)
    else:
        print(step.suggest("writes tables and figures", "results", name), file=sys.stderr)
    return 0
