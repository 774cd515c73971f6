"""`sweep status NAME`: what is done, what runs, what failed and why, what is left."""

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sweep.arguments import add_cell_arguments
from sweep.options import CommonOptions
from sweep.state_words import format_legend


@dataclass(frozen=True, kw_only=True)
class StatusOptions(CommonOptions):
    """What `sweep status` was given."""

    name: str | None
    cells: tuple[str, ...]
    """As `sweep.selection` reads them; empty: all of the sweep."""
    phase: str | None
    """Of the jobs; None: all."""
    show_all: bool
    """List every running, failed and blocking job, not only the first of each."""
    fresh: bool
    """Query Slurm even if its last answer is less than a minute old."""
    as_json: bool


OPTIONS = StatusOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="these only (default: all)", phase="jobs of this phase only")
    parser.add_argument(
        "--all", dest="show_all", action="store_true", help="list every running, failed and blocking job"
    )
    parser.add_argument("--fresh", action="store_true", help="ask Slurm even if it answered less than a minute ago")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep status demo\n  sweep status demo 'm1m-b50-*' --all\n  sweep status demo --json\n"
        f"states:\n{format_legend()}\n"
        "exit code: 1 if a job has failed"
    )


def run(options: StatusOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from sweep.kept_limits import build_limits_json, read_limits
    from sweep.next_step import NextStep
    from sweep.plan.manifest import map_jobs_to_models
    from sweep.report.status import build_status_json, format_status
    from sweep.report.time_left import read_time_left
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors
    from sweep.terminal import find_table_width

    with print_user_errors(), pause_gc():
        stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
        wanted = {job.key for job in stored.select_chains(cells, options.phase)}
        snapshot = stored.load_snapshot(recent_answers=not options.fresh, trusts_checked=True)
        now = SYSTEM_CLOCK.now()
        left = read_time_left(stored, snapshot, now, wanted)
        snapshot.narrow(wanted)
        report = build_status_json(stored.manifest.sweep, snapshot, left, now, map_jobs_to_models(stored.manifest))
        report["limits"] = build_limits_json(read_limits(stored.paths.limits))
    if options.as_json:
        print(json.dumps(report, indent=1))
    else:
        print(format_status(report, show_all=options.show_all, width=find_table_width()))
        step = NextStep(options.store).suggest_for_states(stored.manifest.sweep, report["states"], cells)
        print(step, file=sys.stderr)
    return 1 if report["states"]["failed"] else 0


@contextmanager
def pause_gc() -> Iterator[None]:
    """Thousands of records are read and all are kept: to collect garbage among them takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
