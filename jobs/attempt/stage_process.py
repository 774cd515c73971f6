"""The stage's process: its command, its environment, and its end."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from jobs.attempt.hang import HangWatch
from jobs.attempt.options import SLURM, AttemptOptions
from jobs.attempt.port import PORT_VARIABLE, hold_port
from jobs.claims.takeover import Ownership
from jobs.environment import remove_launcher_variables
from jobs.errors import AttemptSetupError
from jobs.processes import ATTEMPT_MARK, kill_attempt_processes, list_attempt_pids
from jobs.signals import StopForwarder
from jobs.store.paths import AttemptPaths, RunPaths

SRUN = "srun"
STRAGGLERS_SECONDS = 60
"""How long srun waits for the other ranks after the first has ended."""
SRUN_END_SECONDS = 10.0
SRUN_SIGNALED = 128


@dataclass(frozen=True, slots=True)
class StageEnd:
    """What a stage's process left behind for `classify_failure`: its exit code, and why it had to be ended."""

    returncode: int
    """Negative for a signal."""
    hang: str = ""
    """Why it was ended as hung, in one line; empty if it was not."""


def run_stage(
    options: AttemptOptions, run: RunPaths, attempt: AttemptPaths, own: Ownership, stop: StopForwarder
) -> StageEnd:
    """Runs the stage to its end.

    The stage inherits the lock, so that the run stays locked if this process is killed. A stage whose claim is lost, or
    which has hung, is killed.
    """
    command = build_stage_command(options, run)
    through_srun = command[0] == SRUN
    with ExitStack() as held:
        log = held.enter_context(attempt.log.open("ab"))
        environment = build_stage_environment(options, attempt, own, os.environ)
        if through_srun:
            environment[PORT_VARIABLE] = str(held.enter_context(hold_port()))
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if own.lock is None else (own.lock,),
                env=environment,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise AttemptSetupError(f"cannot run {command[0]}: {error.strerror}") from None
        stop.attach(child, through_srun=through_srun)
        kill = partial(_kill, child, attempt, through_srun=through_srun)
        if own.heartbeat is not None:
            own.heartbeat.register_loss_callback(kill)
        watch = HangWatch(attempt, child, kill)
        watch.start()
        returncode = child.wait()
        watch.stop()
    kill_attempt_processes(attempt.root)  # its children must not keep the lock, a core or a GPU
    return StageEnd(convert_srun_exit(returncode) if through_srun else returncode, watch.reason)


def convert_srun_exit(returncode: int) -> int:
    """srun's exit code as one of a process of our own: it ends with 128 + N if signal N killed a rank (srun(1))."""
    return SRUN_SIGNALED - returncode if returncode > SRUN_SIGNALED else returncode


def build_stage_command(options: AttemptOptions, run: RunPaths) -> list[str]:
    """The command that runs a job. Its one argument is job.json."""
    program = [*options.program, str(run.job)]
    tasks = count_tasks_per_node(options)
    if options.backend != SLURM or options.nodes * tasks == 1:
        return program
    return [
        # Why: docs/decisions.md, D38
        # All of it is repeated: srun takes what is left out from the batch job's environment, which has one task a
        # node. Since Slurm 22.05 it does not take --cpus-per-task from there (srun(1)).
        *(SRUN, "--export=ALL", f"--nodes={options.nodes}", f"--ntasks={options.nodes * tasks}"),
        *(f"--ntasks-per-node={tasks}", f"--cpus-per-task={count_cpus_per_task(options)}", "--cpu-bind=none"),
        *(["--overcommit"] if options.cpus < options.nodes * tasks else []),
        # --kill-on-bad-exit would kill the first rank while it saves, as soon as another ends with ExitCode.SAVED
        *("--kill-on-bad-exit=0", f"--wait={STRAGGLERS_SECONDS}"),
        *(sys.executable, "-m", "jobs.attempt.rank", *program),
    ]


def count_tasks_per_node(options: AttemptOptions) -> int:
    """One process for each GPU, and one on a node without GPUs."""
    return max(1, options.gpus // options.nodes)


def count_cpus_per_task(options: AttemptOptions) -> int:
    """The node's share of cores, divided among its processes; at least one."""
    return max(1, options.cpus // (options.nodes * count_tasks_per_node(options)))


def build_stage_environment(
    options: AttemptOptions, attempt: AttemptPaths, own: Ownership, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The stage's environment variables. The local runner sets threads and devices itself."""
    environment = {
        **remove_launcher_variables(inherited),
        ATTEMPT_MARK: str(attempt.root),
        "PYTHONUNBUFFERED": "1",
        **own.build_environment(),
    }
    if options.backend == SLURM:
        environment.setdefault("OMP_NUM_THREADS", str(count_cpus_per_task(options)))
        if not options.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""  # Slurm hides GPUs only if its cgroups constrain devices
    return environment


def _kill(child: subprocess.Popen[bytes], attempt: AttemptPaths, *, through_srun: bool) -> None:
    """Sends SIGKILL to the stage. srun goes last: on SIGTERM it kills the ranks on other nodes."""
    for pid in list_attempt_pids(attempt.root):
        if pid != child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if through_srun:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(SRUN_END_SECONDS)
    child.kill()
