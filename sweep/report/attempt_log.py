"""The log of a job's newest attempt: which one it is, whose it is, and its text as it grows."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.job import Job
from jobs.reconcile.attempts import AttemptRecord, find_log_path, read_attempts
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.paths import SweepPaths
from jobs.store.reading import open_to_read
from jobs.store.results import list_names
from sweep.terminal import render_log_text
from sweep.text_format import format_duration

READ_BYTES = 1 << 20
"""At a time; a log may be larger than what one wants in memory."""


@dataclass(frozen=True, slots=True)
class AttemptLog:
    """The log of one attempt, and whose it is."""

    job: Job
    attempt: AttemptRecord
    path: Path
    state: JobState
    """Of the job."""
    is_here: bool
    """The attempt lives on this machine: its lock says when it ends."""
    run: RunStatus
    known: frozenset[str]
    """Names of the attempts' folders that were there when this was read."""

    def can_grow(self) -> bool:
        """Whether the attempt may still write to it, now: by its lock, or on another machine until it noted its end."""
        if self.is_here:
            return is_held(self.run.run.lock)
        # A listing, as over NFS a name that was asked for too early stays absent for a while.
        return self.state is JobState.RUNNING and "exit.json" not in list_names(self.attempt.paths.root)

    def has_successor(self) -> bool:
        """Whether another attempt of the job has begun since."""
        new = list_names(self.run.run.attempts) - self.known
        return any("start.json" in list_names(self.run.run.attempts / name) for name in new)


def find_newest_log(snapshot: SweepSnapshot, jobs: Sequence[Job], sweep: SweepPaths) -> AttemptLog | None:
    """Of these jobs' attempts: the log of a running one, else of a failed one, else of the last that started."""
    best: tuple[tuple[bool, bool, float], AttemptLog] | None = None
    for job in jobs:
        log = find_job_log(snapshot, job, sweep)
        if log is None:
            continue
        rank = (log.state is JobState.RUNNING, is_unresolved(log.run), log.attempt.start.started_at)
        if best is None or rank > best[0]:
            best = rank, log
    return best[1] if best else None


def find_job_log(snapshot: SweepSnapshot, job: Job, sweep: SweepPaths) -> AttemptLog | None:
    """The log of the job's newest attempt; None if there was none."""
    evidence = snapshot.runs[job.key]
    known = list_names(evidence.run.attempts)  # before the attempts are read: what comes later is news
    outcomes = evidence.outcomes or (tuple(read_attempts(evidence.run, live=False)) if evidence.done else ())
    if not outcomes:
        return None
    last, state = outcomes[-1], snapshot.statuses[job.key].state
    return AttemptLog(job, last, find_log_path(last, sweep), state, evidence.live, evidence, known)


def is_unresolved(evidence: RunStatus) -> bool:
    """Whether the newest attempt ended without a result."""
    return not evidence.done and evidence.last is not None and evidence.last.failure is not None


def describe_log(log: AttemptLog, now: float) -> str:
    """`m1m-b0-i0 pretrain 2fa708ab1adb008b, attempt local-0001 on node7: running for 35 s`. `now`: Unix seconds."""
    start, end = log.attempt.start, log.attempt.end
    name = " ".join([*log.job.cells[:1], log.job.phase, log.job.key])
    attempt = f"attempt {start.attempt}" if log.attempt.began else f"Slurm's job {start.job_id}, which began no attempt"
    if log.state is JobState.RUNNING:
        state = f"running for {format_duration(max(0.0, now - start.started_at) / 3_600)}"
    else:
        took = f" after {format_duration(max(0.0, end.ended_at - start.started_at) / 3_600)}" if end else ""
        failure = f" ({end.failure})" if end and end.failure and log.state is not JobState.DONE else ""
        state = f"{log.state.value}{failure}{took}"
    return f"{name}, {attempt} on {log.attempt.node or 'an unknown host'}: {state}"


class LogReader:
    """Reads what has come to a log since the last call, as printable lines."""

    def __init__(self, path: Path, *, at: int = 0) -> None:
        self._path = path
        self.position = at
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")  # a letter may have been written by half

    def read_new(self, *, final: bool = False) -> str:
        """At most `READ_BYTES`; empty if there is nothing. `final`: nothing more will come."""
        try:
            with open_to_read(self._path) as file:  # opened anew: over NFS an open file would show old sizes
                file.seek(self.position)
                content = file.read(READ_BYTES)
        except FileNotFoundError:
            content = b""
        self.position += len(content)
        return render_log_text(self._decoder.decode(content, final=final and not content))
