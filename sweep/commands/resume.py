"""`sweep resume NAME`: gives failed and cancelled jobs a new budget of attempts, and submits them."""

import argparse
import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.counted import format_counted
from sweep.arguments import add_old_cells_option
from sweep.commands import submit
from sweep.phases import PHASES

if TYPE_CHECKING:
    from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ResumeOptions(submit.SubmitOptions):
    """What `sweep resume` was given."""

    phase: str | None
    """Of the jobs that get a new budget; None: all."""
    old_cells: tuple[str, ...]
    """The cells, by the option of before."""
    no_submit: bool


OPTIONS = ResumeOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-submit", action="store_true", help="record the new budget and start nothing")
    parser.add_argument("--phase", choices=tuple(PHASES), help="a new budget for jobs of this phase alone")
    add_old_cells_option(parser, "--cells", "old_cells")
    submit.add_arguments(parser)
    parser.epilog = (
        "example:\n  sweep resume demo\n  sweep resume demo m1m-b50-i20-c0-x1 --dry-run\n"
        "The named cells, and what they need, get a new budget and are submitted; all others stay as they are."
    )


def run(options: ResumeOptions) -> int:
    from jobs.job import add_ancestors
    from jobs.reconcile.unsettled import list_unread_runs
    from sweep.errors import UsageError
    from sweep.kept_limits import read_limits, update_limits
    from sweep.next_step import NextStep
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.choices import list_hidden_remarks, record_resumption, select_stopped_keys

    if options.scripts:
        raise UsageError("--scripts is for `sweep submit NAME --dry-run`: here the jobs' new budget comes first")
    if options.only:
        line = " ".join(["sweep resume", options.name, *options.only])
        raise UsageError(f"--only held back nothing here: every stopped job got a new budget. Name the cells: `{line}`")
    stored = open_sweep(options.store, options.name)
    cells = stored.select_cells(name_given_cells(options)).words
    with print_user_errors():
        snapshot = stored.load_snapshot()
        keys, stopped = select_stopped_keys(stored, snapshot, cells, options.phase)
        for line in list_hidden_remarks(snapshot) if not cells else ():
            print(f"sweep: {line}", file=sys.stderr)
        unread = {key for key in keys if not snapshot.runs[key].readable}
        keys = [key for key in keys if key not in unread]
        # Why: docs/decisions.md, D171
        for line in list_unread_runs(snapshot, unread):
            print(f"sweep resume: {line}: it gets no new budget; resume it once it can be read", file=sys.stderr)
        logger.info("%d jobs have stopped, %d of them are chosen", stopped, len(keys))
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
            print(f"{format_counted(len(keys), 'job')} would get a new budget of attempts", file=sys.stderr)
            words = [*cells, *(["--phase", options.phase] if options.phase else [])]
            print(
                NextStep(options.store).suggest("gives it and submits", "resume", options.name, *words), file=sys.stderr
            )
            return 1 if unread else code
        update_limits(stored.paths.limits, {"ignored_inputs": accepted})
        record_resumption(stored, snapshot, keys)
    print(f"{format_counted(len(keys), 'job has', 'jobs have')} a new budget of attempts", file=sys.stderr)
    step = NextStep(options.store)
    if options.no_submit:
        print(step.suggest("runs them", "submit", options.name), file=sys.stderr)
        return 1 if unread else 0
    if is_runner_live(stored):
        print(step.suggest("shows how they stand", "status", options.name), file=sys.stderr)
        return 1 if unread else 0
    of_phase = [job.key for job in stored.select_chains(cells, options.phase)] if options.phase else []
    return submit.run(replace(options, cells=()), only_now=cells or of_phase) or (1 if unread else 0)


def name_given_cells(options: ResumeOptions) -> tuple[str, ...]:
    """The cells of the command line, with those of `--cells`, which is told of on stderr."""
    if options.old_cells:
        line = " ".join(["sweep resume", options.name, *options.cells, *options.old_cells])
        print(f"sweep resume: --cells is not needed any more: `{line}` does the same", file=sys.stderr)
    return (*options.cells, *options.old_cells)


def is_runner_live(stored: "StoredSweep") -> bool:
    """Whether a runner of this sweep is at work, which reads the new budgets by itself; says so on stderr."""
    from jobs.local.runner_lock import find_runner_owner

    holder = find_runner_owner(stored.store)
    if holder is None or holder.sweep != stored.manifest.sweep:
        return False
    print(
        f"the runner of this sweep starts them ({holder})",
        file=sys.stderr,
    )
    return True
