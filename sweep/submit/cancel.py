"""A cancellation, on this machine and on Slurm: running jobs save and stop, and no unfinished one starts again."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.job import Job
from jobs.local.attempts import find_foreign_owner, stop_attempt
from jobs.processes import read_user_name
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.ledger import Event, EventKind, has_batches
from sweep.errors import SweepError
from sweep.stored_sweep import StoredSweep

POLL_SECONDS = 0.1
ASK_AGAIN_SECONDS = 2.0
MOST_IDS = 5
"""Shown of the jobs that are still in the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancellation:
    """What was cancelled."""

    cancelled: int
    """Jobs that were not done."""
    ended: int
    """Of those, the jobs that were running and run no more."""


def cancel_jobs(
    stored: StoredSweep,
    words: Sequence[str],
    grace_seconds: float,
    *,
    phase: str | None = None,
    report: Callable[[str], None],
) -> Cancellation:
    """Cancels the jobs that `words` name (`sweep.selection`), all without a word; of `phase` alone, if any.

    SweepError where some of them go on; they are noted as cancelled all the same. `report` is told what is waited for,
    and of jobs that were killed as they did not save within the grace.
    """
    snapshot = stored.load_snapshot()
    undone = [
        job for job in select_own_jobs(stored, words, phase) if snapshot.statuses[job.key].state is not JobState.DONE
    ]
    # Record the cancellation first: a runner that sees the attempt end must not start the job again.
    by = read_user_name()
    stored.ledger.append_wishes(Event(event=EventKind.CANCELLED, key=job.key, by=by) for job in undone)
    ended, foreign = stop_live_attempts(snapshot, undone, grace_seconds, report)
    left: Collection[str] = ()
    problem = ""
    if has_batches(stored.paths.ledger):
        # imported here: a sweep that never went to Slurm is cancelled without loading its client
        from sweep.submit.slurm import cancel_on_slurm

        # a job of Slurm that runs on this machine has ended in both reports, and counts once
        on_slurm = cancel_on_slurm(stored, {job.key for job in undone}, grace_seconds)
        ended, left, problem = ended | on_slurm.ended, on_slurm.left.values(), on_slurm.problem
        foreign = on_slurm.owners or foreign
    name = stored.manifest.sweep
    if foreign and sum(foreign.values()) >= len(left) and (left or not problem):
        raise SweepError(explain_foreign(name, len(undone), foreign))
    if left or problem:
        raise SweepError(explain_unfinished(name, len(undone), left, problem))
    return Cancellation(cancelled=len(undone), ended=len(ended))


def explain_unfinished(name: str, cancelled: int, left: Collection[str], problem: str) -> str:
    """The error of a cancellation that Slurm has not carried out; `left`: ids of jobs that it still has."""
    ids = ", ".join(sorted(left)[:MOST_IDS]) + (", ..." if len(left) > MOST_IDS else "")
    there = (
        f"{len(left)} of them {'is' if len(left) == 1 else 'are'} still in Slurm's queue ({ids})"
        if left
        else "what Slurm's queue holds is not known"
    )
    return (
        f"{format_counted(cancelled, 'job is', 'jobs are')} noted as cancelled here, and {there}"
        f"{f': {problem}' if problem else ''}; those that wait end as soon as they start, "
        f"those that run go on: run `sweep cancel {name}` again"
    )


def explain_foreign(name: str, cancelled: int, foreign: Mapping[str, int]) -> str:
    """The error of a cancellation that only another person can carry out; `foreign`: that person's jobs."""
    whose = " and ".join(f"{number} of them as {user}'s" for user, number in foreign.items())
    owners = " and ".join(foreign)
    return (
        f"{format_counted(cancelled, 'job is', 'jobs are')} noted as cancelled here, "
        f"and {whose} go on: only {owners} or an operator can end them; "
        f"the next `sweep tick {name}` or `sweep cancel {name}` of {owners} does"
    )


def select_own_jobs(stored: StoredSweep, words: Sequence[str], phase: str | None = None) -> list[Job]:
    """Jobs named by key, and the jobs that only the named cells need; all jobs if nothing is named. Of `phase` alone,
    if any."""
    chosen = stored.select_cells(words)
    return [job for job in stored.manifest.jobs if phase in {None, job.phase} and chosen.has_job_alone(job)]


def stop_live_attempts(
    snapshot: SweepSnapshot,
    jobs: Sequence[Job],
    grace_seconds: float,
    report: Callable[[str], None],
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[frozenset[str], Mapping[str, int]]:
    """Stops the running attempts of these jobs, by force after the grace. None of them runs when it returns.

    Keys of those that ran; and by owner the number of those that only another user of this machine can stop.
    """
    runs = [snapshot.runs[job.key].run for job in jobs]
    owners = [find_foreign_owner(run) for run in runs]
    foreign = Counter(owner for owner in owners if owner)
    live = [run for run, owner in zip(runs, owners, strict=True) if not owner and stop_attempt(run)]
    deadline = clock.monotonic() + grace_seconds
    if live:
        report(f"{len(live)} running: up to {grace_seconds:g} s to save and end")
    left, asked_at = live, clock.monotonic()
    while left and clock.monotonic() < deadline:
        clock.sleep(POLL_SECONDS)
        left = [run for run in left if is_held(run.lock)]
        if clock.monotonic() > asked_at + ASK_AGAIN_SECONDS:  # a supervisor that was ending did not pass the first on
            left, asked_at = [run for run in left if stop_attempt(run)], clock.monotonic()
    for run in left:
        report(
            f"{run.root}: did not stop within {grace_seconds:g} s and was killed; "
            "`sweep resume` goes on from its last checkpoint"
        )
        stop_attempt(run, at_once=True)
    while any(is_held(run.lock) for run in left):
        clock.sleep(POLL_SECONDS)
    return frozenset(run.root.name for run in live), foreign
