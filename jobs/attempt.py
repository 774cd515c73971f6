"""One attempt of one job: the program that every cluster starts.

    python -m jobs.attempt --store DIR --sweep NAME --key KEY --attempt ID -- PROGRAM...

Takes the run's lock, writes start.json and job.json, runs `PROGRAM... job.json`, passes stop signals on and records the
end in exit.json. Its own exit codes: 0 the job is done; 75 stopped on request after saving; 76 nothing done, another
attempt lives or has this name; 74 the store refused; 78 the attempt could not be set up; 1 the job failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from jobs.checkpoints import newest_checkpoint
from jobs.errors import STORAGE_ERRORS, BrokenAttemptError, storage_problem
from jobs.failures import EXIT_SAVED, Evidence, Failure, classify
from jobs.job_file import job_content, read_planned_job
from jobs.locks import acquire
from jobs.outcomes import read_tail
from jobs.processes import ATTEMPT_MARK, boot_id, kill_members, own_start
from jobs.records import AttemptExit, AttemptStart, read_record
from jobs.results_check import check_result
from jobs.store import AttemptPaths, RunPaths, Store, UnsafeNameError, write_json

EXIT_FAILED = 1
EXIT_STORAGE = 74
EXIT_TAKEN = 76
EXIT_NOT_SET_UP = 78

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
LOCK_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class StopForwarder:
    """Remembers that a stop was asked for and passes it to the stage's process, also if that starts later."""

    received: list[int] = field(default_factory=list)
    child: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def attach(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        for number in self.received:
            child.send_signal(number)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if self.child is not None:
            self.child.send_signal(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the attempt that the command line names; its exit code is described above."""
    options = build_parser().parse_args(arguments)
    try:
        return run_attempt(options)
    except (BrokenAttemptError, UnsafeNameError) as error:
        print(f"attempt {options.attempt} of {options.key}: {error}", file=sys.stderr)
        return EXIT_NOT_SET_UP
    except OSError as error:
        print(storage_problem(error), file=sys.stderr)
        return EXIT_STORAGE if error.errno in STORAGE_ERRORS else EXIT_NOT_SET_UP


def build_parser() -> argparse.ArgumentParser:
    """The command line that clusters write."""
    parser = argparse.ArgumentParser(prog="python -m jobs.attempt", description="Run one attempt of one job.")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--attempt", required=True, help="name of the attempt, unique among the job's")
    parser.add_argument("--backend", default="local")
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpu-type", default="")
    parser.add_argument("program", nargs="+", help="the stage's program; job.json's path is added to it")
    return parser


def run_attempt(options: argparse.Namespace) -> int:
    """The attempt itself. Raises OSError where the store refuses."""
    store = Store(options.store.resolve())
    planned = read_planned_job(store.sweep(options.sweep).manifest, options.key)
    run = store.run(str(planned.record["stage"]), options.key)
    stop = StopForwarder()
    stop.install()
    lock = acquire(run.lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    if lock is None:
        return EXIT_TAKEN
    if check_result(run, options.key).valid:
        return 0
    attempt = run.attempt(options.attempt)
    attempt.root.parent.mkdir(exist_ok=True)
    try:
        attempt.root.mkdir()
    except FileExistsError:
        return EXIT_TAKEN  # the name was used since the decision to start it: that decision is out of date
    start = _start_record(options, str(planned.record["stage"]), run)
    start.write(attempt.start)
    write_json(run.job, job_content(planned, options.attempt))
    returncode = _run_stage(stage_command(options.program, run), attempt, lock, stop)
    kill_members(attempt.root)  # what the stage left behind must not keep the lock, a core or a GPU
    return _record_end(run, attempt, start, returncode, stop)


def stage_command(program: Sequence[str], run: RunPaths) -> list[str]:
    """The command that runs a job. All that it needs to know stands in job.json."""
    return [*program, str(run.job)]


def _start_record(options: argparse.Namespace, stage: str, run: RunPaths) -> AttemptStart:
    return AttemptStart(
        attempt=options.attempt,
        key=options.key,
        stage=stage,
        backend=options.backend,
        host=os.uname().nodename,
        pid=os.getpid(),
        pid_started=own_start(),
        boot_id=boot_id(),
        started_at=time.time(),
        cpus=options.cpus,
        gpus=options.gpus,
        gpu_type=options.gpu_type,
        nodes=options.nodes,
        devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        checkpoint_step=newest_checkpoint(run).step,
    )


def _run_stage(command: Sequence[str], attempt: AttemptPaths, lock: int, stop: StopForwarder) -> int:
    """Runs the stage to its end; it inherits the lock, so that the lock outlives a kill of this process."""
    with attempt.log.open("ab") as log:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                env=os.environ | {ATTEMPT_MARK: str(attempt.root), "PYTHONUNBUFFERED": "1"},
            )
        except (FileNotFoundError, PermissionError) as error:
            raise BrokenAttemptError(f"cannot run {command[0]}: {error.strerror}") from None
    stop.attach(child)
    return child.wait()


def _record_end(run: RunPaths, attempt: AttemptPaths, start: AttemptStart, returncode: int, stop: StopForwarder) -> int:
    check = check_result(run, start.key)
    newest = newest_checkpoint(run)
    failure = None
    if not check.valid:
        evidence = Evidence(
            returncode=returncode,
            stop_requested=bool(stop.received),
            error=read_record(attempt.error) or {},
            log_tail=read_tail(attempt.log),
            result_problem=check.problem,
        )
        failure = classify(evidence)
    _exit_record(start, returncode, failure, (newest.step, newest.saved_at)).write(attempt.exit)
    if failure is None:
        return 0
    return EXIT_SAVED if returncode == EXIT_SAVED else EXIT_FAILED


def _exit_record(
    start: AttemptStart, returncode: int, failure: Failure | None, newest: tuple[int, float]
) -> AttemptExit:
    return AttemptExit(
        attempt=start.attempt,
        key=start.key,
        ended_at=time.time(),
        returncode=returncode,
        failure=failure.failure if failure else None,
        message=failure.message if failure else "",
        traceback_digest=failure.traceback_digest if failure else "",
        damaged_key=failure.damaged_key if failure else "",
        checkpoint_step=newest[0],
        checkpoint_at=newest[1],
    )


if __name__ == "__main__":
    sys.exit(main())
