"""`sweep resume NAME`: gives failed and cancelled jobs a new budget of attempts, and submits them."""

import argparse
import logging
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.commands import submit

if TYPE_CHECKING:
    from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(submit.SubmitOptions):
    """What `sweep resume` was given."""

    cells: tuple[str, ...]
    """Names of cells or keys of jobs that get a new budget; empty: all of the sweep."""
    no_submit: bool


OPTIONS = ResumeOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="+", default=[], metavar="CELL", help="these cells or jobs only")
    parser.add_argument("--no-submit", action="store_true", help="record the new budget and start nothing")
    submit.add_arguments(parser)
    parser.epilog = "example:\n  sweep resume demo\n  sweep resume demo --cells m5-b60-i10"


def run(options: ResumeOptions) -> int:
    from jobs.job import add_ancestors
    from jobs.processes import read_user_name
    from jobs.reconcile.state import JobState
    from jobs.reconcile.unsettled import list_unsettled_remarks
    from sweep.errors import UsageError
    from sweep.kept_limits import read_limits, update_limits
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.local import list_unread_runs

    if options.scripts:
        raise UsageError("--scripts is for `sweep submit NAME --dry-run`: here the jobs' new budget comes first")
    stored = open_sweep(options.store, options.name)
    chosen = add_ancestors(stored.manifest.jobs, {job.key for job in stored.select_jobs(options.cells)})
    with print_user_errors():
        snapshot = stored.load_snapshot()
        stopped = snapshot.select_in_state({JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN})
        keys = [job.key for job in stopped if job.key in chosen]
        if not options.cells:  # what another user may still have in the queue is sent again only where it is named
            hidden = {key for key in keys if key in snapshot.observed and snapshot.observed[key].hidden_owner}
            keys = [key for key in keys if key not in hidden]
            for line in list_unsettled_remarks(snapshot) if hidden else ():
                print(f"sweep: {line}", file=sys.stderr)
        unread = {key for key in keys if not snapshot.runs[key].readable}
        keys = [key for key in keys if key not in unread]
        # Why: docs/decisions.md, D171
        for line in list_unread_runs(snapshot, unread):
            print(f"sweep resume: {line}: it gets no new budget; resume it once it can be read", file=sys.stderr)
        logger.info("%d jobs have stopped, %d of them are chosen", len(stopped), len(keys))
        # before the new budget: a runner at work, or a round from cron, would start the jobs at once
        accepted, code = submit.check_problems_accepted(
            stored,
            add_ancestors(stored.manifest.jobs, set(keys)),
            read_limits(stored.paths.limits),
            ignore_data=options.ignore_data,
            dry_run=options.dry_run,
        )
        if options.dry_run:
            print("\n".join(keys))
            print(f"{len(keys)} jobs would get a new budget of attempts", file=sys.stderr)
            return 1 if unread else code
        update_limits(stored.paths.limits, {"ignored_inputs": accepted})
        stored.ledger.append_wishes(snapshot.build_resumption(key, read_user_name()) for key in keys)
    print(f"{len(keys)} jobs have a new budget of attempts", file=sys.stderr)
    if options.no_submit or is_runner_live(stored):
        return 1 if unread else 0
    return submit.run(options, only_now=options.cells) or (1 if unread else 0)


def is_runner_live(stored: "StoredSweep") -> bool:
    """Whether a runner of this sweep is at work, which reads the new budgets by itself; says so on stderr."""
    from jobs.local.runner_lock import find_runner_owner

    holder = find_runner_owner(stored.store)
    if holder is None or holder.sweep != stored.manifest.sweep:
        return False
    print(
        f"the runner of this sweep starts them ({holder}); watch it with `sweep status {stored.manifest.sweep}`",
        file=sys.stderr,
    )
    return True
