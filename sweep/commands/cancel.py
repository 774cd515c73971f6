"""`sweep cancel NAME`: stops running jobs and keeps all unfinished ones from starting until `sweep resume`."""

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.processes import read_user_name
from sweep.arguments import add_cell_arguments, parse_amount
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.reconcile.snapshot import SweepSnapshot
    from sweep.stored_sweep import StoredSweep

POLL_SECONDS = 0.1
ASK_AGAIN_SECONDS = 2.0
MOST_IDS = 5
"""Shown of the jobs that are still in the queue."""


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
    from jobs.reconcile.state import JobState
    from jobs.store.ledger import Event, EventKind, has_batches
    from sweep.errors import SweepError
    from sweep.next_step import NextStep
    from sweep.stored_sweep import open_sweep, print_user_errors

    stored = open_sweep(options.store, options.name)
    with print_user_errors():
        snapshot = stored.load_snapshot()
        undone = [
            job
            for job in select_jobs(stored, options.cells, options.phase)
            if snapshot.statuses[job.key].state is not JobState.DONE
        ]
        # Record the cancellation first: a runner that sees the attempt end must not start the job again.
        by = read_user_name()
        stored.ledger.append_wishes(Event(event=EventKind.CANCELLED, key=job.key, by=by) for job in undone)
        ended, foreign = stop_live_attempts(snapshot, undone, options.grace_seconds)
        left: Collection[str] = ()
        problem = ""
        if has_batches(stored.paths.ledger):
            from sweep.submit.slurm import cancel_on_slurm

            report = cancel_on_slurm(stored, {job.key for job in undone}, options.grace_seconds)
            ended, left, problem = ended + report.ended, report.left.values(), report.problem
            foreign = report.owners or foreign
    if foreign and sum(foreign.values()) >= len(left) and (left or not problem):
        raise SweepError(explain_foreign(options.name, len(undone), foreign))
    if left or problem:
        raise SweepError(explain_unfinished(options.name, len(undone), left, problem))
    print(f"{len(undone)} jobs cancelled, {ended} of them were running")
    step = NextStep(options.store)
    if undone:
        phase = ["--phase", options.phase] if options.phase else []
        print(step.suggest("puts them back", "resume", options.name, *options.cells, *phase), file=sys.stderr)
    else:
        print(step.suggest("shows how the sweep stands", "status", options.name), file=sys.stderr)
    return 0


def explain_unfinished(name: str, cancelled: int, left: Collection[str], problem: str) -> str:
    """The error of a cancellation that Slurm has not carried out; `left`: ids of jobs that it still has."""
    ids = ", ".join(sorted(left)[:MOST_IDS]) + (", ..." if len(left) > MOST_IDS else "")
    there = (
        f"{len(left)} of them are still in Slurm's queue ({ids})" if left else "what Slurm's queue holds is not known"
    )
    return (
        f"{cancelled} jobs are noted as cancelled here, and {there}{f': {problem}' if problem else ''}; "
        f"those that wait end as soon as they start, those that run go on: run `sweep cancel {name}` again"
    )


def explain_foreign(name: str, cancelled: int, foreign: Mapping[str, int]) -> str:
    """The error of a cancellation that only another person can carry out; `foreign`: that person's jobs."""
    whose = " and ".join(f"{number} of them as {user}'s" for user, number in foreign.items())
    owners = " and ".join(foreign)
    return (
        f"{cancelled} jobs are noted as cancelled here, and {whose} go on: only {owners} or an operator can end them; "
        f"the next `sweep tick {name}` or `sweep cancel {name}` of {owners} does"
    )


def select_jobs(stored: "StoredSweep", words: Sequence[str], phase: str | None = None) -> "list[Job]":
    """Jobs named by key, and the jobs that only the named cells need; all jobs if nothing is named. Of `phase` alone,
    if any."""
    chosen = stored.select_cells(words)
    return [job for job in stored.manifest.jobs if phase in {None, job.phase} and chosen.has_job_alone(job)]


def stop_live_attempts(
    snapshot: "SweepSnapshot", jobs: "Sequence[Job]", grace_seconds: float, clock: Clock = SYSTEM_CLOCK
) -> tuple[int, Mapping[str, int]]:
    """Stops the running attempts of these jobs, by force after the grace; how many ran, and by their owner the number
    of those that only another user of this machine can stop. None of the others runs when it returns."""
    from jobs.local.attempts import find_foreign_owner, stop_attempt
    from jobs.store.flock import is_held

    runs = [snapshot.runs[job.key].run for job in jobs]
    owners = [find_foreign_owner(run) for run in runs]
    foreign = Counter(owner for owner in owners if owner)
    live = [run for run, owner in zip(runs, owners, strict=True) if not owner and stop_attempt(run)]
    deadline = clock.monotonic() + grace_seconds
    if live:
        print(f"{len(live)} running: up to {grace_seconds:g} s to save and end", file=sys.stderr, flush=True)
    left, asked_at = live, clock.monotonic()
    while left and clock.monotonic() < deadline:
        clock.sleep(POLL_SECONDS)
        left = [run for run in left if is_held(run.lock)]
        if clock.monotonic() > asked_at + ASK_AGAIN_SECONDS:  # a supervisor that was ending did not pass the first on
            left, asked_at = [run for run in left if stop_attempt(run)], clock.monotonic()
    for run in left:
        print(
            f"{run.root}: did not stop within {grace_seconds:g} s and was killed; "
            "`sweep resume` goes on from its last checkpoint",
            file=sys.stderr,
        )
        stop_attempt(run, at_once=True)
    while any(is_held(run.lock) for run in left):
        clock.sleep(POLL_SECONDS)
    return len(live), foreign
