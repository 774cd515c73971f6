"""`sweep logs NAME [CELL...]`: prints the log of an attempt."""

import argparse
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.reading import open_to_read
from sweep.arguments import add_cell_arguments
from sweep.options import CommonOptions
from sweep.terminal import render_log_text

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.reconcile.attempts import AttemptRecord
    from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
    from jobs.store.paths import SweepPaths

POLL_SECONDS = 0.2


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
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the attempt ends")
    parser.add_argument("--path", action="store_true", help="print the log's path only")
    parser.epilog = "example:\n  sweep logs demo\n  sweep logs demo m1m-b50-i20-c0-x1 --phase pretrain -f"


def run(options: LogsOptions) -> int:
    from sweep.errors import NotPlannedError
    from sweep.stored_sweep import open_sweep_to_read, print_user_errors

    stored, cells = open_sweep_to_read(options.store, options.name, options.cells)
    with print_user_errors():
        jobs = stored.select_chains(cells, options.phase)
        found = find_newest_log(stored.load_snapshot(recent_answers=True), jobs, stored.paths)
        if found is None:
            raise NotPlannedError(
                f"none of these {len(jobs)} jobs has started, so there is no log yet; "
                f"see `sweep status {stored.manifest.sweep}`"
            )
        print(f"{found.path}", file=sys.stdout if options.path else sys.stderr)
        if not options.path:
            print_log(found, follow=options.follow)
    return 0


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of one attempt."""

    path: Path
    is_alive: Callable[[], bool]
    """Whether the attempt may still write to it, now."""


def find_newest_log(snapshot: "SweepSnapshot", jobs: "list[Job]", sweep: "SweepPaths") -> LogFile | None:
    """Of these jobs' attempts: the log of a running one, else of a failed one, else of the last that started."""
    from jobs.reconcile.attempts import find_log_path, read_attempts
    from jobs.reconcile.state import JobState

    best: tuple[tuple[bool, bool, float], LogFile] | None = None
    for job in jobs:
        evidence = snapshot.runs[job.key]
        outcomes = evidence.outcomes or tuple(read_attempts(evidence.run, live=False))
        if not outcomes:
            continue
        last = outcomes[-1]
        runs = snapshot.statuses[job.key].state is JobState.RUNNING
        rank = (runs, is_unresolved(evidence), last.start.started_at)
        if best is None or rank > best[0]:
            best = (rank, LogFile(find_log_path(last, sweep), make_liveness_check(evidence, last, runs=runs)))
    return best[1] if best else None


def make_liveness_check(evidence: "RunStatus", last: "AttemptRecord", *, runs: bool) -> Callable[[], bool]:
    """On this machine by the lock of the run; on another the attempt lives until its exit record is there."""
    from jobs.store.flock import is_held

    if evidence.live:
        return lambda: is_held(evidence.run.lock)
    return lambda: runs and not last.paths.exit.exists()


def is_unresolved(evidence: "RunStatus") -> bool:
    """Whether the newest attempt ended without a result."""
    return not evidence.done and evidence.last is not None and evidence.last.failure is not None


def print_log(log: LogFile, *, follow: bool, clock: Clock = SYSTEM_CLOCK) -> None:
    """Prints the log; with `follow` until its attempt ends."""
    position = 0
    decoder = getincrementaldecoder("utf-8")(errors="replace")  # a letter may have been written by half
    while True:
        live = follow and log.is_alive()  # before reading: else its last lines could be missed
        try:
            with open_to_read(log.path) as file:
                file.seek(position)
                text = file.read()
        except FileNotFoundError:
            text = b""
        position += len(text)
        sys.stdout.write(render_log_text(decoder.decode(text, final=not live)))
        sys.stdout.flush()
        if not live:
            return
        clock.sleep(POLL_SECONDS)
