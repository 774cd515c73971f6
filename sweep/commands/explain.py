"""`sweep explain CELL`: a cell's chain of jobs: keys, reuse, cost, what changed the keys, what happened."""

import argparse
import json
from dataclasses import dataclass

from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(CommonOptions):
    """What `sweep explain` was given."""

    cell: str
    """A cell's name, the unique beginning of one, or a job's key."""
    sweep: str | None
    """None: all sweeps of the store."""
    as_json: bool


OPTIONS = ExplainOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cell", metavar="CELL", help="a cell's name, the unique beginning of one, or a job's key")
    parser.add_argument("--sweep", metavar="NAME", help="the sweep to search (default: all sweeps of the store)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print it as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep explain m79m-b20-i10-c20-x1\n  sweep explain m79m-b20-i10-c20-x1 --sweep paper"


def run(options: ExplainOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from jobs.store.paths import Store, UnsafeNameError
    from sweep.errors import UsageError
    from sweep.report.explain import build_explanation_json, explain_cell, find_cell, format_explanation
    from sweep.stored_sweep import StoredSweep, print_user_errors

    store = Store(options.store)
    try:
        found = find_cell(store, options.cell, options.sweep)
    except UnsafeNameError as error:
        raise UsageError(str(error)) from None
    with print_user_errors():
        snapshot = StoredSweep(store, found.manifest).load_snapshot(recent_answers=True)
        explanation = explain_cell(store, found, snapshot, SYSTEM_CLOCK.now())
    if options.as_json:
        print(json.dumps(build_explanation_json(explanation), indent=1))
    else:
        print(format_explanation(explanation))
    return 0
