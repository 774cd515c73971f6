"""`sweep status NAME`: what is done, what runs, what failed and why, what is left."""

import argparse
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
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
    watch: bool = False
    """Show it on the terminal as it changes."""


OPTIONS = StatusOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--all", dest="show_all", action="store_true", help="list every running, failed and blocking job"
    )
    parser.add_argument("--fresh", action="store_true", help="ask Slurm even if it answered less than a minute ago")
    parser.add_argument("--watch", action="store_true", help="show it on this terminal as it changes; q quits")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = "example:\n  sweep status demo\n  sweep status demo --json\nexit code: 1 if a job has failed"


def run(options: StatusOptions) -> int:
    from jobs.clock import SYSTEM_CLOCK
    from sweep.kept_limits import build_limits_json, read_limits
    from sweep.report.status import build_status_json, format_status
    from sweep.report.time_left import read_time_left
    from sweep.stored_sweep import open_sweep, print_user_errors

    if options.watch:
        return show_live(options)
    with print_user_errors(), pause_gc():
        stored = open_sweep(options.store, options.name)
        snapshot = stored.load_snapshot(recent_answers=not options.fresh, trusts_checked=True)
        now = SYSTEM_CLOCK.now()
        left = read_time_left(stored, snapshot, now)
        report = build_status_json(stored.manifest.sweep, snapshot, left, now)
        report["limits"] = build_limits_json(read_limits(stored.paths.limits))
    print(json.dumps(report, indent=1) if options.as_json else format_status(report, show_all=options.show_all))
    return 1 if report["states"]["failed"] else 0


def show_live(options: StatusOptions) -> int:
    """`--watch`. UsageError where there is no terminal to draw on."""
    from sweep.errors import UsageError
    from sweep.stored_sweep import open_sweep, print_user_errors

    # imported here: no other command needs the view, nor rich's part of it
    from sweep.watch.session import run_watch
    from sweep.watch.terminal import explain_no_terminal

    others = [name for name, given in {"--json": options.as_json, "--all": options.show_all}.items() if given]
    if others:
        raise UsageError(f"--watch does not go with {' and '.join(others)}: leave one out")
    if reason := explain_no_terminal():
        raise UsageError(
            f"--watch needs a terminal, and {reason}; `sweep status {options.name}` prints the same once, "
            "and --json is for programs"
        )
    with print_user_errors():
        return run_watch(open_sweep(options.store, options.name))


@contextmanager
def pause_gc() -> Iterator[None]:
    """Thousands of records are read and all are kept: to collect garbage among them takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
