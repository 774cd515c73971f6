"""`sweep resume NAME`: gives failed and cancelled jobs a new budget, and submits."""

import argparse
import sys
from typing import TYPE_CHECKING

from sweep.commands import submit

if TYPE_CHECKING:
    from sweep.stored_sweep import StoredSweep

HELP = "give failed and cancelled jobs a new budget and go on from their last checkpoints"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="+", default=[], metavar="CELL", help="these cells or jobs only")
    parser.add_argument("--no-submit", action="store_true", help="note the new budget, and start nothing")
    submit.add_arguments(parser)
    parser.epilog = "example:\n  sweep resume demo\n  sweep resume demo --cells m5-b60-i10"


def run(options: argparse.Namespace) -> int:
    from jobs.job import with_ancestors
    from jobs.reconcile.state import State
    from jobs.store.ledger import Event, EventKind
    from sweep.stored_sweep import open_sweep, told_to_the_user

    stored = open_sweep(options.store, options.name)
    chosen = with_ancestors(stored.manifest.jobs, {job.key for job in stored.jobs_named(options.cells)})
    with told_to_the_user():
        stopped = stored.picture().in_state({State.FAILED, State.CANCELLED, State.UNKNOWN})
        keys = [job.key for job in stopped if job.key in chosen]
        if options.dry_run:
            print("\n".join(keys))
            print(f"{len(keys)} jobs would get a new budget", file=sys.stderr)
            return 0
        stored.ledger.append(Event(event=EventKind.RESUMED, key=key) for key in keys)
    print(f"{len(keys)} jobs have a new budget", file=sys.stderr)
    if options.no_submit or taken_up(stored):
        return 0
    options.only = options.only or options.cells
    return submit.run(options)


def taken_up(stored: "StoredSweep") -> bool:
    """Whether a live runner of this sweep sees the new budgets by itself."""
    from jobs.local.runner_lock import current_holder

    holder = current_holder(stored.store)
    if holder is None or holder.sweep != stored.manifest.sweep:
        return False
    print(f"the runner that is at work takes them up ({holder})", file=sys.stderr)
    return True
