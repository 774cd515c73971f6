"""Attempts as processes of this machine, each in a session of its own.

An attempt does not need the runner that started it: it holds its run's lock, records its own end, and goes on if the
runner dies. The next runner adopts it by that lock.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.environment import build_child_environment, list_named_variables, select_job_variables
from jobs.job import Job
from jobs.local.slots import Allocation, Slots
from jobs.observation import ClusterState, Observation
from jobs.processes import kill_attempt_processes, signal_attempt
from jobs.reconcile.attempts import read_starts
from jobs.store.flock import is_held
from jobs.store.job_file import find_own_code
from jobs.store.paths import AttemptPaths, RunPaths, Store
from jobs.store.records import AttemptStart
from jobs.store.sharing import name_user

STAGE_PROGRAM = (sys.executable, "-m", "stages")
BACKEND = "local"
POLL_SECONDS = 0.05
STDERR_LIMIT = 4_096
OWN_NAME = re.compile(r"local-([0-9]{1,9})")
"""Other names in the folder (local-0001.bak) are not ours."""


@dataclass(slots=True)
class RunningAttempt:
    """An attempt that this process started, or (with no `process`) one that it found alive."""

    job: Job
    run: RunPaths
    allocation: Allocation
    id: str
    process: subprocess.Popen[bytes] | None = None
    stderr: IO[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Also true while only the stage's process is left, after its supervisor was killed."""
        supervised = self.process is not None and self.process.poll() is None
        return supervised or is_held(self.run.lock)

    def terminate(self) -> None:
        """Asks it to save and stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            return
        newest = find_newest_attempt(self.run)
        if newest is not None:
            signal_attempt(newest[1], newest[0].root, signal.SIGTERM)

    def kill(self) -> None:
        """Work since the last checkpoint is lost."""
        newest = find_newest_attempt(self.run)
        if newest is not None:
            kill_attempt_processes(newest[0].root)

    def read_end(self) -> Observation:
        """With the end of what the supervisor wrote on stderr: why it failed before it had a log."""
        message = ""
        if self.stderr is not None:
            self.stderr.seek(max(0, self.stderr.seek(0, os.SEEK_END) - STDERR_LIMIT))
            message = self.stderr.read().decode(errors="replace").strip()
            self.stderr.close()
        returncode = self.process.poll() if self.process else None
        return Observation(state=ClusterState.ENDED, id=self.id, returncode=returncode, message=message)


class LocalAttempts:
    """The attempts that run on this machine. `program` runs a stage: it is given job.json's path."""

    def __init__(
        self, store: Store, sweep: str, slots: Slots, *, program: Sequence[str], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.store = store
        self.sweep = sweep
        self.slots = slots
        self.program = tuple(program)
        self.clock = clock
        self._running: dict[str, RunningAttempt] = {}

    def start(self, job: Job) -> None:
        """Only when the slots have room for it."""
        run = self.store.locate_run(job.stage, job.key)
        allocation = self.slots.allocate(job.resources)
        attempt = choose_attempt_name(run)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would break with this runner
        process = subprocess.Popen(
            self._build_command(job, attempt),
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # neither Ctrl-C nor the end of this terminal reaches it
            env=build_attempt_environment(allocation, os.environ, list_named_variables([job.settings])),
        )
        self._running[job.key] = RunningAttempt(
            job=job, run=run, allocation=allocation, id=attempt, process=process, stderr=stderr
        )

    def adopt(self, job: Job) -> None:
        """Takes charge of a live attempt that another process started: counts its slots until its lock is free."""
        run = self.store.locate_run(job.stage, job.key)
        newest = find_newest_attempt(run)
        start = newest[1] if newest else None
        devices = tuple(name for name in start.devices.split(",") if name) if start else ()
        allocation = Allocation(start.cpus if start else 1, devices if start and start.gpus else ())
        self.slots.add_allocation(allocation)
        self._running[job.key] = RunningAttempt(
            job=job, run=run, allocation=allocation, id=start.attempt if start else ""
        )

    @property
    def count(self) -> int:
        """How many were started, or taken charge of, and have not been seen to end."""
        return len(self._running)

    def poll(self) -> Mapping[str, Observation]:
        """By key, what runs and what has ended since the last poll; the slots of the latter are free again."""
        observed = {}
        for key, running in list(self._running.items()):
            if running.alive:
                observed[key] = Observation(state=ClusterState.RUNNING, id=running.id)
            else:
                del self._running[key]
                self.slots.release(running.allocation)
                observed[key] = running.read_end()
        return observed

    def terminate(self, keys: Collection[str]) -> None:
        """Keys that do not run are no error."""
        for running in self._select(keys):
            running.terminate()

    def kill(self, keys: Collection[str]) -> None:
        for running in self._select(keys):
            running.kill()

    def wait(self, seconds: float) -> None:
        """Returns when an attempt has ended, after `seconds` at most."""
        deadline = self.clock.monotonic() + seconds
        while self.clock.monotonic() < deadline and all(running.alive for running in self._running.values()):
            self.clock.sleep(POLL_SECONDS)

    def _select(self, keys: Collection[str]) -> list[RunningAttempt]:
        return [running for key, running in self._running.items() if key in keys]

    def _build_command(self, job: Job, attempt: str) -> list[str]:
        resources = job.resources
        return [
            *(sys.executable, "-m", "jobs.attempt"),
            *("--store", str(self.store.root.resolve()), "--sweep", self.sweep, "--key", job.key),
            *("--attempt", attempt, "--backend", BACKEND, "--nodes", str(resources.nodes)),
            *("--cpus", str(resources.cpus * resources.nodes), "--gpus", str(resources.gpus)),
            *("--gpu-type", resources.gpu_type, "--", *self.program),
        ]


# Why: docs/decisions.md, D126
def build_attempt_environment(
    allocation: Allocation, shell: Mapping[str, str], named: Collection[str] = ()
) -> dict[str, str]:
    """One attempt's variables: those of the shell that enter a job at all, its threads and devices, where its code is.

    No GPU is visible to an attempt that asked for none, and no Python looks for modules in the current folder. `named`:
    variables that the job's plan asks for by name.
    """
    return {
        **build_child_environment(select_job_variables(shell, same_machine=True, named=named), find_own_code()),
        "CUDA_VISIBLE_DEVICES": ",".join(allocation.devices),
        "OMP_NUM_THREADS": str(allocation.cpus),
    }


def choose_attempt_name(run: RunPaths) -> str:
    """The name of the run's next attempt. Whoever makes its folder first has it: two runners start one attempt."""
    try:
        names = [path.name for path in run.attempts.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    numbers = [int(match[1]) for name in names if (match := OWN_NAME.fullmatch(name))]
    return f"local-{max(numbers, default=0) + 1:04d}"


def find_newest_attempt(run: RunPaths) -> tuple[AttemptPaths, AttemptStart] | None:
    """The attempt that began last."""
    return next(reversed(read_starts(run)), None)


def find_foreign_owner(run: RunPaths) -> str:
    """The user whose live attempt of the run this one may not stop; empty if it may, or if none lives here."""
    newest = find_newest_attempt(run)
    if newest is None or os.geteuid() == 0 or not is_held(run.lock):
        return ""
    owner = newest[0].start.stat().st_uid
    return "" if owner == os.geteuid() else name_user(owner)


def stop_attempt(run: RunPaths, *, at_once: bool = False) -> bool:
    """Asks the run's live attempt to save and stop, or kills it; from any process here. False: none lives.

    One that is only just starting has not said yet which process it is: ask again.
    """
    if not is_held(run.lock):
        return False
    if (newest := find_newest_attempt(run)) is None:
        return True
    paths, start = newest
    if at_once:
        kill_attempt_processes(paths.root)
    else:
        signal_attempt(start, paths.root, signal.SIGTERM)
    return True
