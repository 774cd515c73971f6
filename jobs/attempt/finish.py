"""The end of an attempt: why there is no result, and what is written about it."""

import signal
import sys
import time
from dataclasses import dataclass, replace

from jobs.attempt.options import SLURM
from jobs.reconcile.attempts import read_attempts, read_tail
from jobs.reconcile.failures import EXIT_SAVED, Failure, FailureEvidence, classify_failure
from jobs.reconcile.retries import RetryDecision, decide_retry
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.paths import AttemptPaths, RunPaths
from jobs.store.records import AttemptExit, AttemptStart, FailureClass, find_newest_checkpoint, read_record
from jobs.store.results import check_result

FENCED = Failure(failure=FailureClass.KILLED, message="fenced: a newer incarnation took over")

SLURM_STOPS = {
    signal.SIGUSR2: (FailureClass.WALL_CLOCK, "the time limit is near: saved; goes on from its checkpoint"),
    signal.SIGTERM: (FailureClass.PREEMPTED, "told to end by Slurm; goes on from its checkpoint"),
}
"""What a stop means under Slurm: USR2 is the signal that our batch scripts ask for ahead of the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageExit:
    """A stage that ran, and who asked it to stop."""

    run: RunPaths
    attempt: AttemptPaths
    start: AttemptStart
    returncode: int
    """Negative: killed by that signal."""
    stop: signal.Signals | None = None
    """The first that was received."""


def write_attempt_exit(ended: StageExit) -> AttemptExit:
    """Judges what the stage left behind and writes exit.json."""
    check = check_result(ended.run, ended.start.key)
    if check.valid:
        return _write(ended, None)
    evidence = FailureEvidence(
        returncode=ended.returncode,
        stop_requested=ended.stop is not None,
        error=read_record(ended.attempt.error) or {},
        log_tail=read_tail(ended.attempt.log),
        result_problem=check.problem,
    )
    failure = classify_failure(evidence)
    if ended.start.backend == SLURM and failure.failure is FailureClass.INTERRUPTED and ended.stop in SLURM_STOPS:
        failure = _by_slurm(failure, ended.stop, saved=ended.returncode == EXIT_SAVED)
    return _write(ended, failure)


def write_fenced_exit(ended: StageExit) -> AttemptExit:
    """The one thing that a fenced attempt may still write: its own exit.json."""
    return _write(ended, FENCED)


def _by_slurm(failure: Failure, stop: signal.Signals, *, saved: bool) -> Failure:
    kind, message = SLURM_STOPS[stop]
    return replace(failure, failure=kind, message=message if saved else f"{failure.message} ({stop.name})")


def _write(ended: StageExit, failure: Failure | None) -> AttemptExit:
    newest = find_newest_checkpoint(ended.run)
    end = AttemptExit(
        attempt=ended.start.attempt,
        key=ended.start.key,
        ended_at=time.time(),
        returncode=ended.returncode,
        failure=failure.failure if failure else None,
        message=failure.message if failure else "",
        traceback_digest=failure.traceback_digest if failure else "",
        damaged_key=failure.damaged_key if failure else "",
        checkpoint_step=newest.step,
        checkpoint_at=newest.saved_at,
        stop_signal=ended.stop.name if ended.stop else "",
    )
    end.write(ended.attempt.exit)
    return end


# A job that saved ahead of its time limit puts itself back into Slurm's queue.

SCONTROL_SECONDS = 60.0


def needs_requeue(run: RunPaths, end: AttemptExit, *, restarts: int) -> bool:
    """Whether the time limit alone ended it, and the budget allows another attempt. `restarts`: planned ones."""
    if end.failure is not FailureClass.WALL_CLOCK or end.returncode != EXIT_SAVED:
        return False
    return decide_retry(read_attempts(run, live=False), restarts=restarts) is RetryDecision.GO_ON


def requeue_job(job_id: str) -> bool:
    """`scontrol requeue`; what follows in this process may not run any more. False, with a line on stderr, where Slurm
    refuses or does not answer: `sweep tick` sends the job anew."""
    from jobs.slurm.client import SlurmClient  # for these attempts alone: it is a quarter of their start-up time

    problem = SlurmClient(SlurmTimeouts(call_s=SCONTROL_SECONDS)).requeue(job_id)
    if problem:
        print(f"scontrol requeue {job_id}: {problem}", file=sys.stderr)
    return not problem
