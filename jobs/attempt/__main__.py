"""One attempt of one job: the program that every cluster starts.

    python -m jobs.attempt --store DIR --sweep NAME --key KEY --attempt ID -- PROGRAM...

Takes the run (its lock; on a cluster a claim), writes start.json and job.json, runs `PROGRAM... job.json`, passes stop
signals on and records the end in exit.json. It exits with an `ExitCode`.
"""

import os
import sys
from collections.abc import Sequence

from jobs.attempt.finish import needs_requeue, requeue_job, write_attempt_exit
from jobs.attempt.options import SLURM, AttemptOptions, parse_options
from jobs.attempt.stage_process import StageEnd, run_stage
from jobs.claims.claims import ClaimOwner, refresh_folder
from jobs.claims.heartbeat import ClaimLostError
from jobs.claims.takeover import Ownership, acquire_cluster_ownership, acquire_local_ownership
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import STORAGE_ERRORS, AttemptSetupError, describe_storage_error
from jobs.exit_codes import ExitCode
from jobs.processes import read_boot_id, read_own_start
from jobs.reconcile.attempts import read_attempts, read_starts
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.retries import RetryDecision, decide_retry
from jobs.set_aside import has_set_aside_input
from jobs.signals import StopForwarder
from jobs.store.job_file import PlannedJob, build_job_content, read_planned_job
from jobs.store.ledger import UserRequests, collect_user_requests, is_withdrawn, read_events
from jobs.store.order import parse_order
from jobs.store.paths import RunPaths, Store, UnsafeNameError, flush_folder, make_folder, write_json
from jobs.store.records import AttemptExit, AttemptStart, find_newest_checkpoint
from jobs.store.results import check_result, identify_result
from jobs.store.sharing import adopt_group_umask

MOST_DIGITS = 13
"""A longer number is no time."""
NEVER_RAN = -9
"""Recorded as the exit code of a stage that was not started, because the attempt was fenced before."""


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Runs the attempt that the command line names."""
    options = parse_options(arguments)
    try:
        with adopt_group_umask(options.store):
            return run_attempt(options)
    except (AttemptSetupError, UnsafeNameError) as error:
        print(f"attempt {options.attempt} of {options.key}: {error}", file=sys.stderr)
        return ExitCode.NOT_SET_UP
    except OSError as error:
        print(describe_storage_error(error), file=sys.stderr)
        return ExitCode.STORAGE if error.errno in STORAGE_ERRORS else ExitCode.NOT_SET_UP


# Why: docs/decisions.md, D29
def run_attempt(options: AttemptOptions, clock: Clock = SYSTEM_CLOCK) -> ExitCode:
    """Raises OSError if the store refuses, AttemptSetupError if the attempt cannot be set up."""
    stop = StopForwarder()
    stop.install()
    store = Store(options.store.resolve())
    planned = read_planned_job(store.locate_sweep(options.sweep).manifest, options.key)
    run = store.locate_run(str(planned.record["stage"]), options.key)
    if options.backend == SLURM:
        if _is_done(run, options.key):
            return ExitCode.DONE
        if (parent := _unfinished_parent(store, planned)) is not None:
            print(f"attempt {options.attempt} of {options.key}: its parent {parent} has no result", file=sys.stderr)
            return ExitCode.NO_PARENT
        if reason := find_start_refusal(store, run, options, restarts=_count_planned_restarts(planned)):
            print(f"attempt {options.attempt} of {options.key}: not started: {reason}", file=sys.stderr)
            return ExitCode.NOT_WANTED
    own = _acquire_ownership(options, run, stop, clock)
    if own is None:
        return ExitCode.SAVED if stop.received else ExitCode.TAKEN
    try:
        return _run_owned(options, planned, run, own, stop, clock=clock)
    finally:
        own.release()


def _acquire_ownership(options: AttemptOptions, run: RunPaths, stop: StopForwarder, clock: Clock) -> Ownership | None:
    if options.backend != SLURM:
        return acquire_local_ownership(run, clock)
    holder = ClaimOwner.from_this_process(
        attempt=options.attempt, job_id=options.job_id, batch=options.batch, restart=options.restart
    )
    return acquire_cluster_ownership(run, holder, stop, clock)


def _run_owned(
    options: AttemptOptions,
    planned: PlannedJob,
    run: RunPaths,
    own: Ownership,
    stop: StopForwarder,
    *,
    clock: Clock,
) -> ExitCode:
    store = Store(options.store.resolve())
    if _is_done(run, options.key):
        return ExitCode.DONE
    # Under the lock: who cancels writes the wish, and then looks whether the lock is held. One of both sees the other.
    if options.backend != SLURM and options.key in _read_requests(options).cancelled:
        return ExitCode.NOT_WANTED
    # A parent whose checkpoint is lost runs again; this job may have been queued before that was known.
    if options.backend != SLURM and (parent := _unfinished_parent(store, planned)) is not None:
        print(f"attempt {options.attempt} of {options.key}: its parent {parent} has no result", file=sys.stderr)
        return ExitCode.NO_PARENT
    # Under the lock too: `sweep gc` marks what it sets aside, and then looks who owns a run that reads it.
    if (marked := _find_set_aside_run(store, planned, run)) is not None:
        print(f"attempt {options.attempt} of {options.key}: files of {marked.root} are set aside", file=sys.stderr)
        return ExitCode.NO_PARENT
    attempt = run.locate_attempt(options.attempt)
    make_folder(attempt.root.parent)
    refresh_folder(attempt.root.parent)  # another machine may have made attempts
    number = 1 + max((parse_order(start.order) for _, start in read_starts(run)), default=0)
    try:
        attempt.root.mkdir()
    except FileExistsError:
        return ExitCode.TAKEN  # the name has been used since the decision to start it, which is out of date
    flush_folder(attempt.root.parent)
    start = _start_record(options, planned, run, clock.now(), number)
    start.write(attempt.start)
    stage, fenced = StageEnd(NEVER_RAN), False
    try:
        own.check()
        write_json(run.job, build_job_content(planned, options.attempt, revision=options.revision))
        stage = run_stage(options, run, attempt, own, stop)
        own.check()
    except ClaimLostError:
        fenced = True
    end = write_attempt_exit(run, start, stage.returncode, stop=stop.first, fenced=fenced, hang=stage.hang, clock=clock)
    return ExitCode.TAKEN if fenced else _exit_code(options, planned, run, own, end)


# Whether a job that Slurm starts is still wanted. Slurm restarts jobs for reasons of its own, and knows no ledger.


# Why: docs/decisions.md, D101
def find_start_refusal(store: Store, run: RunPaths, options: AttemptOptions, *, restarts: int) -> str:
    """Why the stage must not start, in one line; empty if it may.

    By the ledger (a person cancelled the job, or we took this batch's copy out of the queue) or by the job's own
    history, if the last end is one that no accounting can explain away. `restarts`: the attempts beyond the first that
    the plan counts on.
    """
    ledger = store.locate_sweep(options.sweep).ledger
    requests = _read_requests(options)
    if options.key in requests.cancelled:
        return f"it is cancelled; `sweep resume {options.sweep}` puts it back"
    if is_withdrawn(ledger, options.batch, options.key):
        return "this copy of it was taken out of the queue; `sweep tick` sends the job again if it is still to run"
    attempts = read_attempts(run, live=False)
    resumption = requests.get_resumption(options.key)
    if decide_retry(attempts, resumption=resumption, restarts=restarts) is not RetryDecision.STOP:
        return ""
    last = attempts[-1]
    # What was killed or preempted may be the fault of a node: only Slurm's accounting says so, and no attempt asks it.
    if last.end is None or last.failure is None or POLICIES[last.failure].refined_by_slurm:
        return ""
    return f"it has failed for good ({last.failure}: {last.end.message}); `sweep resume {options.sweep}` tries it again"


def _read_requests(options: AttemptOptions) -> UserRequests:
    """What people ask for, as the ledger has it now."""
    ledger = Store(options.store.resolve()).locate_sweep(options.sweep).ledger
    refresh_folder(ledger)  # a cancellation may have been written on another machine a moment ago
    return collect_user_requests(read_events(ledger))


def _exit_code(
    options: AttemptOptions, planned: PlannedJob, run: RunPaths, own: Ownership, end: AttemptExit
) -> ExitCode:
    if end.failure is None:
        return ExitCode.DONE
    if options.backend == SLURM and options.job_id and _needs_requeue(options, planned, run, end):
        own.release()  # Slurm may end this process at any moment from here on
        requeue_job(options.job_id)
    return ExitCode.SAVED if end.returncode == ExitCode.SAVED else ExitCode.FAILED


def _needs_requeue(options: AttemptOptions, planned: PlannedJob, run: RunPaths, end: AttemptExit) -> bool:
    restarts = _count_planned_restarts(planned)
    resumption = _read_requests(options).get_resumption(options.key)
    if not needs_requeue(run, end, restarts=restarts, resumption=resumption):
        return False
    return not find_start_refusal(Store(options.store.resolve()), run, options, restarts=restarts)


def _count_planned_restarts(planned: PlannedJob) -> int:
    return int(planned.record.get("resources", {}).get("restarts", 0))


def _is_done(run: RunPaths, key: str) -> bool:
    if check_result(run, key).valid:
        return True
    refresh_folder(run.root)  # another node may have written the result a moment ago
    return check_result(run, key).valid


def _unfinished_parent(store: Store, planned: PlannedJob) -> str | None:
    parents = planned.parents.items()
    return next((key for key, stage in parents if not _is_done(store.locate_run(stage, key), key)), None)


def _find_set_aside_run(store: Store, planned: PlannedJob, own: RunPaths) -> RunPaths | None:
    stage, config = str(planned.record["stage"]), planned.record["config"]
    runs = [own, *(store.locate_run(parent_stage, key) for key, parent_stage in planned.parents.items())]
    return next((run for run in runs if has_set_aside_input(run, stage, config)), None)


def _start_record(
    options: AttemptOptions, planned: PlannedJob, run: RunPaths, started_at: float, number: int
) -> AttemptStart:
    return AttemptStart(
        attempt=options.attempt,
        key=options.key,
        stage=str(planned.record["stage"]),
        backend=options.backend,
        host=os.uname().nodename,
        pid=os.getpid(),
        pid_started=read_own_start(),
        boot_id=read_boot_id(),
        started_at=started_at,
        cpus=options.cpus,
        gpus=options.gpus,
        gpu_type=options.gpu_type,
        nodes=options.nodes,
        devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        checkpoint_step=find_newest_checkpoint(run).step,
        job_id=options.job_id,
        batch=options.batch,
        restart=options.restart,
        node=os.environ.get("SLURMD_NODENAME", "") if options.backend == SLURM else "",
        cluster_started_at=_read_cluster_start() if options.backend == SLURM else 0.0,
        order=number,
        parents={key: identify_result(run.locate_sibling(stage, key).result) for key, stage in planned.parents.items()},
    )


def _read_cluster_start() -> float:
    """Since Slurm 22.05 a job is told when it was started, by the controller's clock (sbatch(1))."""
    given = os.environ.get("SLURM_JOB_START_TIME", "")
    return float(given) if given.isascii() and given.isdigit() and len(given) < MOST_DIGITS else 0.0


if __name__ == "__main__":
    sys.exit(main())
