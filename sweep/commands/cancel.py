"""`sweep cancel NAME`: stops running jobs and keeps all unfinished ones from starting until `sweep resume`."""

import argparse
import sys
from dataclasses import dataclass

from sweep.arguments import parse_amount
from sweep.options import CommonOptions


@dataclass(frozen=True, kw_only=True)
class CancelOptions(CommonOptions):
    """What `sweep cancel` was given."""

    name: str
    cells: tuple[str, ...]
    """Names of cells or keys of jobs; empty: all of the sweep."""
    grace_seconds: float
    """Time for running jobs to save before they are killed."""


OPTIONS = CancelOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("cells", nargs="*", metavar="CELL|KEY", help="these cells or jobs only (default: all)")
    parser.add_argument(
        "--grace",
        dest="grace_seconds",
        type=parse_amount,
        default=60.0,
        metavar="SECONDS",
        help="time to save before the kill (default: %(default)g)",
    )
    parser.epilog = (
        "example:\n  sweep cancel demo\n  sweep cancel demo m5-b60-i10\n"
        "Finished jobs stay finished. A job that an uncancelled cell needs too stays in, unless it is named by key."
    )


def run(options: CancelOptions) -> int:
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.cancel import cancel_jobs

    stored = open_sweep(options.store, options.name)
    with print_user_errors():
        done = cancel_jobs(
            stored,
            options.cells,
            options.grace_seconds,
            report=lambda line: print(line, file=sys.stderr),
        )
    print(
        f"{done.cancelled} jobs cancelled, {done.ended} of them were running; "
        f"`sweep resume {options.name}` puts them back"
    )
    return 0
