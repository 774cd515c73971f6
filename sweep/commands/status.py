"""`sweep status NAME`: what is done, what runs, what failed and why, what is left."""

import argparse
import json
import sys
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
    watch: bool = False
    """Show it on the terminal as it changes."""


OPTIONS = StatusOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=True, cells="these only (default: all)", phase="jobs of this phase only")
    parser.add_argument(
        "--all", dest="show_all", action="store_true", help="list every running, failed and blocking job"
    )
    parser.add_argument("--fresh", action="store_true", help="ask Slurm even if it answered less than a minute ago")
    parser.add_argument("--watch", action="store_true", help="show it on this terminal as it changes; q quits")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep status demo\n  sweep status demo 'm1m-b50-*' --all\n  sweep status demo --json\n"
        f"states:\n{format_legend()}\n"
        "exit code: 1 if a job has failed"
    )


def run(options: StatusOptions) -> int:
    from sweep.canary.rule import suggest_release
    from sweep.next_step import NextStep
    from sweep.plan.manifest import pause_gc
    from sweep.report.status import format_status, load_status
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors
    from sweep.terminal import find_table_width

    if options.watch:
        return show_live(options)
    with print_user_errors(), pause_gc():
        stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
        report = load_status(stored, cells, options.phase, fresh=options.fresh)
    if options.as_json:
        print(json.dumps(report, indent=1))
    else:
        print(format_status(report, show_all=options.show_all, width=find_table_width()))
        step, name, states = NextStep(options.store), stored.manifest.sweep, report["states"]
        release = suggest_release(step, name, states, report["held"])
        print(release or step.suggest_for_states(name, states, cells, stored.manifest.jobs), file=sys.stderr)
    return 1 if report["states"]["failed"] else 0


def show_live(options: StatusOptions) -> int:
    """`--watch`. UsageError where there is no terminal to draw on."""
    from sweep.errors import UsageError
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    # imported here: no other command needs the view, nor rich's part of it
    from sweep.watch.session import run_watch
    from sweep.watch.terminal import explain_no_terminal

    stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
    given = {"--json": options.as_json, "--all": options.show_all, "--phase": options.phase, "cells": cells}
    if others := [name for name, value in given.items() if value]:
        raise UsageError(
            f"--watch does not go with {' and '.join(others)}: leave that out; in the view, / shows some jobs alone"
        )
    if reason := explain_no_terminal():
        raise UsageError(
            f"--watch needs a terminal, and {reason}; `sweep status {stored.manifest.sweep}` prints the same once, "
            "and --json is for programs"
        )
    with print_user_errors():
        return run_watch(stored)
