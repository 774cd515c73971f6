"""The end of an attempt: its exit record, and whether it puts its job back into Slurm's queue."""

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from jobs.attempt.options import SLURM
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.exit_codes import ExitCode
from jobs.reconcile.attempts import read_attempts, read_tail
from jobs.reconcile.failures import FENCED, POLICIES, AttemptEvidence, Failure, classify_failure
from jobs.reconcile.retries import RetryDecision, decide_retry
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.ledger import NEVER_RESUMED, Resumption
from jobs.store.paths import RunPaths
from jobs.store.records import AttemptExit, AttemptStart, find_newest_checkpoint, measure_clock_lead, read_record
from jobs.store.results import check_result

SCONTROL_SECONDS = 60.0


def write_attempt_exit(
    run: RunPaths,
    start: AttemptStart,
    returncode: int,
    *,
    stop: signal.Signals | None = None,
    fenced: bool = False,
    hang: str = "",
    clock: Clock = SYSTEM_CLOCK,
) -> AttemptExit:
    """Judges what the stage left behind, and writes exit.json, the one file that a fenced attempt may still write.

    `returncode` of the stage, negative for a signal. `stop`: the first stop signal that the supervisor received.
    `hang`: why the supervisor ended the stage; empty if it did not.
    """
    attempt = run.locate_attempt(start.attempt)
    failure = FENCED if fenced else _find_failure(run, start, returncode, stop, hang)
    newest = find_newest_checkpoint(run)
    end = AttemptExit(
        attempt=start.attempt,
        key=start.key,
        ended_at=clock.now(),
        returncode=returncode,
        checkpoint_step=newest.step,
        checkpoint_at=newest.saved_at and newest.saved_at + measure_clock_lead(start, attempt.start),
        stop_signal=stop.name if stop else "",
        **(asdict(failure) if failure else {"failure": None}),
    )
    end.write(attempt.exit)
    return end


def _find_failure(
    run: RunPaths, start: AttemptStart, returncode: int, stop: signal.Signals | None, hang: str
) -> Failure | None:
    check = check_result(run, start.key)
    if check.valid:
        return None
    attempt = run.locate_attempt(start.attempt)
    evidence = AttemptEvidence(
        returncode=returncode,
        stop=stop,
        under_slurm=start.backend == SLURM,
        asked_gpus=start.gpus > 0,
        full_folder=find_full_folder(run.root),
        hang=hang,
        error=read_record(attempt.error) or {},
        log_tail=read_tail(attempt.log),
        memory_gib=read_asked_memory_gib() if start.backend == SLURM else 0.0,
        result_problem=check.problem,
    )
    return classify_failure(evidence)


MIB_OF_A_GIB = 1024


def read_asked_memory_gib() -> float:
    """Of a node, as Slurm tells its jobs in MiB; 0 where it was asked for none, or all of a node."""
    given = os.environ.get("SLURM_MEM_PER_NODE", "")
    return int(given) / MIB_OF_A_GIB if given.isascii() and given.isdigit() else 0.0


LOCAL_FOLDERS = ("/tmp", "/dev/shm")  # noqa: S108 - looked at, not written to
LEAST_FREE_BYTES = 1 << 20


def find_full_folder(run: Path) -> str:
    """A folder of this node's own disk or memory that is full, while the store has room; empty if there is none."""
    folders = dict.fromkeys([os.environ.get("TMPDIR", ""), *LOCAL_FOLDERS])
    try:
        store = run.stat().st_dev
        if _is_full(run):
            return ""
    except OSError:
        return ""
    return next((each for each in folders if each and _is_full_elsewhere(Path(each), store)), "")


def _is_full_elsewhere(folder: Path, store: int) -> bool:
    """Whether a folder is full that lies on another device than the store."""
    try:
        return folder.stat().st_dev != store and _is_full(folder)
    except OSError:  # a folder that is not here says nothing
        return False


def _is_full(folder: Path) -> bool:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < LEAST_FREE_BYTES or (found.f_files > 0 and found.f_favail == 0)


def needs_requeue(run: RunPaths, end: AttemptExit, *, restarts: int, resumption: Resumption = NEVER_RESUMED) -> bool:
    """Whether the time limit alone ended it, and its budget allows another attempt.

    `restarts`: the attempts beyond the first that the plan counts on.
    """
    if end.failure is None or not POLICIES[end.failure].requeues_itself or end.returncode != ExitCode.SAVED:
        return False
    return decide_retry(read_attempts(run, live=False), resumption=resumption, restarts=restarts) is RetryDecision.GO_ON


def requeue_job(job_id: str) -> bool:
    """Calls `scontrol requeue`. What follows in this process may not run any more.

    False, with a line on stderr, if Slurm refuses or does not answer: `sweep tick` sends the job again then.
    """
    from jobs.slurm.client import SlurmClient  # only here: it would be a quarter of every attempt's start-up time

    problem = SlurmClient(SlurmTimeouts(call_s=SCONTROL_SECONDS)).requeue(job_id)
    if problem:
        print(f"scontrol requeue {job_id}: {problem}", file=sys.stderr)
    return not problem
