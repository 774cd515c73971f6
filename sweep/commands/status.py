"""`sweep status NAME`: what is done, what runs, what failed and why, what is left."""

import argparse
import json
from dataclasses import dataclass

from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class StatusOptions(CommonOptions):
    """What `sweep status` was given."""

    name: str
    show_all: bool
    """List every running, failed and blocking job, not only the first of each."""
    fresh: bool
    """Query Slurm even if its last answer is less than a minute old."""
    as_json: bool


OPTIONS = StatusOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--all", dest="show_all", action="store_true", help="list every running, failed and blocking job"
    )
    parser.add_argument("--fresh", action="store_true", help="ask Slurm even if it answered less than a minute ago")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep status demo\n  sweep status demo --json\nexit code: 1 if a job has failed"


def run(options: StatusOptions) -> int:
    from sweep.plan.manifest import pause_gc
    from sweep.report.status import format_status, load_status
    from sweep.stored_sweep import open_sweep, print_user_errors

    with print_user_errors(), pause_gc():
        report = load_status(open_sweep(options.store, options.name), fresh=options.fresh)
    print(json.dumps(report, indent=1) if options.as_json else format_status(report, show_all=options.show_all))
    return 1 if report["states"]["failed"] else 0
