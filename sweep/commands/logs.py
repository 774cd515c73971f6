"""`sweep logs NAME [CELL...]`: prints the log of an attempt, and follows its job from attempt to attempt."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.clock import SYSTEM_CLOCK, Clock
from sweep.arguments import add_cell_arguments
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.reconcile.snapshot import SweepSnapshot
    from sweep.report.attempt_log import AttemptLog, LogReader
    from sweep.stored_sweep import StoredSweep

POLL_SECONDS = 0.2
AWAY_POLL_SECONDS = 1.0
"""Of a log that another machine writes: a shared file system shows nothing sooner."""
LOOK_SECONDS = 10.0
"""Between two looks at the whole sweep while an attempt is followed or awaited; Slurm is asked once a minute."""
LAST_LINES_SECONDS = 3.0
"""After the end of another machine's attempt: its last lines may show later than the note of its end."""


@dataclass(frozen=True, kw_only=True)
class LogsOptions(CommonOptions):
    """What `sweep logs` was given."""

    name: str | None
    cells: tuple[str, ...]
    """As `sweep.selection` reads them: of their jobs the one that runs, failed or started last; empty: of all."""
    follow: bool
    phase: str | None
    """Of the jobs; None: all."""
    path: bool
    """Print the log's path and not its text."""


OPTIONS = LogsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(
        parser,
        reads=True,
        cells="of these (default: of all) the job that runs, failed or started last",
        phase="of the trunk, pretrain, finetune or evaluate jobs alone",
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on printing, over restarts, until the job is done or has failed"
    )
    parser.add_argument("--path", action="store_true", help="print the log's path only")
    parser.epilog = "example:\n  sweep logs demo\n  sweep logs demo m1m-b50-i20-c0-x1 --phase pretrain -f"


def run(options: LogsOptions) -> int:
    from sweep.errors import NotPlannedError
    from sweep.report.attempt_log import describe_log, find_newest_log
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
    with print_user_errors():
        jobs = stored.select_chains(cells, options.phase)
        if not jobs:
            there = ", ".join(dict.fromkeys(job.phase for job in stored.select_chains(cells)))
            whose = " ".join(cells) or stored.manifest.sweep
            raise NotPlannedError(f"{whose}: has no job of phase {options.phase}; its jobs are of {there}")
        snapshot = stored.load_snapshot(recent_answers=True)
        log = find_newest_log(snapshot, jobs, stored.paths)
        if log is None and options.follow and not options.path and is_any_queued(snapshot, jobs):
            log = wait_for_first(stored, jobs)
        if log is None:
            raise build_no_log_error(snapshot, jobs, stored.manifest.sweep)
        for line in [run.problem for run in (snapshot.runs[job.key] for job in jobs) if run.problem and not run.done]:
            print(f"sweep logs: {line}", file=sys.stderr)  # what is not readable may be the one that was meant
        if options.path:
            print(log.path)
            return 0
        try:
            print(f"{describe_log(log, SYSTEM_CLOCK.now())}\n{log.path}", file=sys.stderr)
            print_log(stored, log, follow=options.follow)
        except KeyboardInterrupt:
            print(f"\nno longer followed; {log.job.key} is not touched by that", file=sys.stderr)
            return 130
    return 0


def is_any_queued(snapshot: "SweepSnapshot", jobs: "Sequence[Job]") -> bool:
    """Whether one of them starts by itself, now or later."""
    from jobs.reconcile.state import JobState

    return any(snapshot.statuses[job.key].state in {JobState.QUEUED, JobState.RUNNING} for job in jobs)


def build_no_log_error(snapshot: "SweepSnapshot", jobs: "Sequence[Job]", name: str) -> Exception:
    """There is nothing to print, and what would change that."""
    from jobs.counted import format_counted
    from sweep.errors import NotPlannedError

    one = len(jobs) == 1
    which = "this job has not" if one else f"none of these {format_counted(len(jobs), 'job')} has"
    what = "it" if one else "them"
    waits = "it waits" if one else "they wait"
    step = "`sweep logs -f` waits for" if is_any_queued(snapshot, jobs) else "`sweep submit` starts"
    step = step.replace("logs -f", f"logs {name} -f").replace("submit", f"submit {name}")
    return NotPlannedError(f"{which} begun its log; {step} {what}, and `sweep status {name}` shows what {waits} for")


def wait_for_first(stored: "StoredSweep", jobs: "Sequence[Job]", clock: Clock = SYSTEM_CLOCK) -> "AttemptLog | None":
    """The log of the first of these jobs that starts; None when none of them will start by itself any more."""
    from jobs.counted import format_counted
    from sweep.report.attempt_log import find_newest_log

    which = "the job" if len(jobs) == 1 else f"the first of {format_counted(len(jobs), 'job')}"
    print(f"no log yet: waits for {which} to start (Ctrl-C ends the wait)", file=sys.stderr)
    while True:
        began = clock.monotonic()
        snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
        clock.sleep(max(POLL_SECONDS, 20 * (clock.monotonic() - began)))
        log = find_newest_log(snapshot, jobs, stored.paths)
        if log is not None or not is_any_queued(snapshot, jobs):
            return log


# Why: docs/decisions.md, D189
def print_log(stored: "StoredSweep", log: "AttemptLog", *, follow: bool, clock: Clock = SYSTEM_CLOCK) -> None:
    """Prints the log; with `follow` also what comes, attempt after attempt, until the job is done or stopped. The last
    line says what to do next."""
    from sweep.report.attempt_log import LogReader, describe_log, find_job_log

    while True:
        reader = LogReader(log.path)
        if not follow:
            while text := reader.read_new():
                write_text(text)
            write_text(reader.read_new(final=True))
            break
        print_until_end(log, reader, clock)
        following = find_following(stored, log, clock)
        if following is None:
            break
        log = following
        print(f"{describe_log(log, clock.now())}\n{log.path}", file=sys.stderr)
    if follow:  # it has changed since
        snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
        log = find_job_log(snapshot, log.job, stored.paths) or log
    for line in list_memory_words(stored, log):
        print(line, file=sys.stderr)
    print(describe_next(stored, log), file=sys.stderr)


def list_memory_words(stored: "StoredSweep", log: "AttemptLog") -> list[str]:
    """How the attempt was killed, with the memory that Slurm saw it use; empty for one that was not, or if nobody
    knows."""
    from sweep.report.peak_memory import find_peak_gib, format_peak, read_peak_memory

    peak = find_peak_gib(log.attempt, read_peak_memory(stored, [log.attempt]))
    end = log.attempt.end
    return [f"{end.message}; {format_peak(peak)}"] if end is not None and peak is not None else []


def print_until_end(log: "AttemptLog", reader: "LogReader", clock: Clock) -> None:
    """Prints what comes until the attempt has ended, or another one has begun in its place."""
    pause = POLL_SECONDS if log.is_here else AWAY_POLL_SECONDS
    while True:
        # Before reading: else its last lines could be missed. A node that died leaves no note of an end, and the lock
        # of a run may be the next attempt's.
        live = log.can_grow() and not log.has_successor()
        text = reader.read_new(final=not live)
        write_text(text)
        if text:
            continue
        if not live:
            break
        clock.sleep(pause)
    if not log.is_here and log.attempt.end is None:
        clock.sleep(LAST_LINES_SECONDS)
        write_text(reader.read_new(final=True))


def find_following(stored: "StoredSweep", log: "AttemptLog", clock: Clock) -> "AttemptLog | None":
    """The job's next attempt, waited for as long as it may begin by itself; None if it will not."""
    from jobs.reconcile.state import JobState
    from sweep.report.attempt_log import find_job_log

    told = False
    while True:
        began = clock.monotonic()
        snapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
        took = clock.monotonic() - began
        state = snapshot.statuses[log.job.key].state
        newest = find_job_log(snapshot, log.job, stored.paths)
        if newest is not None and newest.attempt.start.attempt != log.attempt.start.attempt:
            return newest
        on_slurm = log.attempt.start.backend == "slurm"
        waits = {JobState.QUEUED, JobState.RUNNING}
        if on_slurm or is_runner_at_work(stored):
            waits |= {JobState.INTERRUPTED, JobState.UNKNOWN}
        if state not in waits:
            return None
        if not told and state is not JobState.RUNNING:
            told = True
            end = newest.attempt.end if newest else None
            why = f"ended: {end.failure or 'for no known reason'}" if end else "has ended"
            print(
                f"attempt {log.attempt.start.attempt} {why}; {log.job.key} is {state.value}, and its next attempt is "
                "waited for (Ctrl-C ends the wait)",
                file=sys.stderr,
            )
        clock.sleep(LOOK_SECONDS if on_slurm else max(POLL_SECONDS, 20 * took))  # a large sweep takes long to read


def is_runner_at_work(stored: "StoredSweep") -> bool:
    """Whether a runner of this machine works on the sweep, and starts its jobs again."""
    from jobs.local.runner_lock import find_runner_owner

    owner = find_runner_owner(stored.store)
    return owner is not None and owner.sweep == stored.manifest.sweep


def describe_next(stored: "StoredSweep", log: "AttemptLog") -> str:
    """What the job is now, and the next command."""
    from jobs.reconcile.state import JobState

    name, key = stored.manifest.sweep, log.job.key
    state, run = log.state, log.run
    message = run.message
    if run.problem and not run.done:  # else it would be told as a job without a result
        return f"{run.problem}; `sweep status {name}` shows how the sweep stands"
    again = "tick" if log.attempt.start.backend == "slurm" else "submit"
    steps = {
        JobState.DONE: f"done; `sweep status {name}` shows the rest of the sweep",
        JobState.RUNNING: f"it runs; `sweep logs {name} {key} -f` follows it",
        JobState.QUEUED: f"it is in the queue; `sweep logs {name} {key} -f` waits for it",
        JobState.FAILED: f"failed: {message or 'for no known reason'}; repair that, then `sweep resume {name} {key}`",
        JobState.CANCELLED: f"cancelled; `sweep resume {name} {key}` brings it back",
        JobState.INTERRUPTED: f"it goes on from its last checkpoint at the next `sweep {again} {name}`",
        JobState.READY: f"it starts at the next `sweep {again} {name}`",
    }
    return steps.get(state, f"it is {state.value}; `sweep status {name}` says why")


def write_text(text: str) -> None:
    """At once, for who reads along."""
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()
