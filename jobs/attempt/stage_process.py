"""The stage's process: its command, its environment, and its end."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

from jobs.attempt.options import SLURM
from jobs.claims.takeover import Ownership
from jobs.errors import AttemptSetupError
from jobs.processes import ATTEMPT_MARK, kill_attempt_processes, list_attempt_pids
from jobs.signals import StopForwarder
from jobs.store.paths import AttemptPaths, RunPaths

SRUN = "srun"
STRAGGLERS_SECONDS = 60
"""How long the ranks of a job may differ in their ends."""
SRUN_PATIENCE_SECONDS = 10.0
SRUN_SIGNALED = 128


def run_stage(
    options: argparse.Namespace, run: RunPaths, attempt: AttemptPaths, own: Ownership, stop: StopForwarder
) -> int:
    """Runs the stage to its end and returns its exit code, negative for a signal. It inherits the lock, which so
    outlives a kill of this process. A stage whose claim is lost is killed."""
    command = build_stage_command(options, run)
    with attempt.log.open("ab") as log:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if own.lock is None else (own.lock,),
                env=build_stage_environment(options, attempt, own, os.environ),
            )
        except (FileNotFoundError, PermissionError) as error:
            raise AttemptSetupError(f"cannot run {command[0]}: {error.strerror}") from None
    through_srun = command[0] == SRUN
    stop.attach(child, through_srun=through_srun)
    if own.heartbeat is not None:
        own.heartbeat.register_loss_callback(lambda: _kill(child, attempt, through_srun=through_srun))
    returncode = child.wait()
    kill_attempt_processes(attempt.root)  # what the stage left behind must not keep the lock, a core or a GPU
    return convert_srun_exit(returncode) if through_srun else returncode


def convert_srun_exit(returncode: int) -> int:
    """srun ends with 128 + N if signal N killed a rank (srun(1)); a process of our own would have ended with -N."""
    return SRUN_SIGNALED - returncode if returncode > SRUN_SIGNALED else returncode


def build_stage_command(options: argparse.Namespace, run: RunPaths) -> list[str]:
    """The command that runs a job. All that it needs to know stands in job.json."""
    program = [*options.program, str(run.job)]
    tasks = count_tasks_per_node(options)
    if options.backend != SLURM or options.nodes * tasks == 1:
        return program
    return [
        # Why: docs/decisions.md, D38
        # everything is said again: srun takes what is left out from the batch job's environment, which has one task
        # a node; since Slurm 22.05 it does not take --cpus-per-task (srun(1))
        *(SRUN, "--export=ALL", f"--nodes={options.nodes}", f"--ntasks={options.nodes * tasks}"),
        *(f"--ntasks-per-node={tasks}", f"--cpus-per-task={count_cpus_per_task(options)}", "--cpu-bind=none"),
        *(["--overcommit"] if options.cpus < options.nodes * tasks else []),
        # --kill-on-bad-exit would kill the first rank while it saves, as soon as another ends with ExitCode.SAVED
        *("--kill-on-bad-exit=0", f"--wait={STRAGGLERS_SECONDS}"),
        *(sys.executable, "-m", "jobs.attempt.rank", *program),
    ]


def count_tasks_per_node(options: argparse.Namespace) -> int:
    """One process for each GPU; one on a node without."""
    return max(1, int(options.gpus) // int(options.nodes))


def count_cpus_per_task(options: argparse.Namespace) -> int:
    """Cores of one process."""
    return max(1, int(options.cpus) // (int(options.nodes) * count_tasks_per_node(options)))


def build_stage_environment(
    options: argparse.Namespace, attempt: AttemptPaths, own: Ownership, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What the stage finds beside job.json. The local runner sets threads and devices itself."""
    environment = {**inherited, ATTEMPT_MARK: str(attempt.root), "PYTHONUNBUFFERED": "1", **own.build_environment()}
    if options.backend == SLURM:
        environment.setdefault("OMP_NUM_THREADS", str(count_cpus_per_task(options)))
        if not options.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Slurm hides no GPU where devices are not constrained
    return environment


def _kill(child: subprocess.Popen[bytes], attempt: AttemptPaths, *, through_srun: bool) -> None:
    """SIGKILL to the stage. srun kills the ranks of other nodes when it is told to end, and so goes last."""
    for pid in list_attempt_pids(attempt.root):
        if pid != child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if through_srun:
        child.terminate()
        deadline = time.monotonic() + SRUN_PATIENCE_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    child.kill()
