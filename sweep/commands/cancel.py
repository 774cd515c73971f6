"""`sweep cancel NAME`: stops running jobs and keeps all unfinished ones from starting until `sweep resume`."""

import argparse
import sys
from dataclasses import dataclass

from jobs.counted import format_counted
from sweep.arguments import add_cell_arguments, parse_amount
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class CancelOptions(CommonOptions):
    """What `sweep cancel` was given."""

    name: str
    cells: tuple[str, ...]
    """As `sweep.selection` reads them; empty: all of the sweep."""
    phase: str | None
    """Of the jobs; None: all."""
    grace_seconds: float
    """Time for running jobs to save before they are killed."""


OPTIONS = CancelOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=False, cells="these only (default: all)", phase="jobs of this phase only")
    parser.add_argument(
        "--grace",
        dest="grace_seconds",
        type=parse_amount,
        default=60.0,
        metavar="SECONDS",
        help="time to save before the kill (default: %(default)g)",
    )
    parser.epilog = (
        "example:\n  sweep cancel demo\n  sweep cancel demo 'm1m-b50-*'\n  sweep cancel demo --phase evaluate\n"
        "Finished jobs stay finished. A job that an uncancelled cell needs too stays in, unless it is named by key."
    )


def run(options: CancelOptions) -> int:
    from sweep.next_step import NextStep
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.cancel import cancel_jobs

    stored = open_sweep(options.store, options.name)
    with print_user_errors():
        done = cancel_jobs(
            stored,
            options.cells,
            options.grace_seconds,
            phase=options.phase,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    were = "was" if done.ended == 1 else "were"
    print(f"{format_counted(done.cancelled, 'job')} cancelled, {done.ended} of them {were} running")
    step = NextStep(options.store)
    if done.cancelled:
        phase = ["--phase", options.phase] if options.phase else []
        print(step.suggest("puts them back", "resume", options.name, *options.cells, *phase), file=sys.stderr)
    else:
        print(step.suggest("shows how the sweep stands", "status", options.name), file=sys.stderr)
    return 0
