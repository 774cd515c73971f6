"""This machine as a cluster: attempts as processes of their own sessions, within CPU and GPU slots.

The queue lives in the process that submits. The attempts do not need it: they hold their run's lock, record their own
end, and go on if this process dies; the next one adopts them by that lock.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from jobs.cluster import AcceptedRequest, AttemptRequest, ClusterState, Observation, RefusedRequest
from jobs.errors import InfeasibleJobError
from jobs.job import Job, Resources
from jobs.processes import kill_attempt_processes, signal_attempt
from jobs.store.flock import is_held
from jobs.store.paths import AttemptPaths, RunPaths, Store
from jobs.store.records import AttemptStart

# What this machine may give to attempts at once: CPU cores and GPUs.


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one attempt holds."""

    cpus: int
    devices: tuple[str, ...] = ()
    """GPU ids, as CUDA_VISIBLE_DEVICES names them."""


class Slots:
    """Counts what is free. An adopted attempt may hold more than there is; then nothing starts until it ends."""

    def __init__(self, cpus: int, devices: Sequence[str] = ()) -> None:
        self.cpus = cpus
        self.devices = tuple(devices)
        self._free_cpus = cpus
        self._taken: list[str] = []

    @property
    def free_cpus(self) -> int:
        return self._free_cpus

    @property
    def free_devices(self) -> list[str]:
        return [device for device in self.devices if device not in self._taken]

    def find_infeasible_reason(self, resources: Resources) -> str | None:
        """Why these resources can never be had here."""
        cpus = resources.cpus * resources.nodes
        if cpus > self.cpus:
            return f"it needs {cpus} CPU cores and this runner has {self.cpus} (--cpus)"
        if resources.gpus > len(self.devices):
            return f"it needs {resources.gpus} GPUs and this runner has {len(self.devices)} (--gpus)"
        return None

    def find_shortages(self, resources: Resources) -> set[str]:
        """What is short at this moment: a set out of `cpus`, `gpus`."""
        short = set()
        if resources.cpus * resources.nodes > self._free_cpus:
            short.add("cpus")
        if resources.gpus > len(self.free_devices):
            short.add("gpus")
        return short

    def allocate(self, resources: Resources) -> Allocation:
        """Only when nothing is lacking."""
        lease = Allocation(resources.cpus * resources.nodes, tuple(self.free_devices[: resources.gpus]))
        self.add_allocation(lease)
        return lease

    def add_allocation(self, lease: Allocation) -> None:
        """Counts what an adopted attempt has already."""
        self._free_cpus -= lease.cpus
        self._taken.extend(lease.devices)

    def release(self, lease: Allocation) -> None:
        self._free_cpus += lease.cpus
        for device in lease.devices:
            self._taken.remove(device)


def detect_machine_slots(cpus: int | None = None, gpus: int | None = None) -> Slots:
    """This machine's slots, or the part that was asked for. Raises InfeasibleJobError for GPUs that are not here."""
    devices = query_visible_gpus() if gpus is None or gpus > 0 else []
    if gpus is not None and gpus > len(devices):
        raise InfeasibleJobError(f"--gpus {gpus}: this machine shows {len(devices)} GPUs; ask for that many at most")
    wanted = devices if gpus is None else devices[:gpus]
    return Slots(len(os.sched_getaffinity(0)) if cpus is None else cpus, wanted)


def query_visible_gpus() -> list[str]:
    """GPU ids: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S607 - found on PATH wherever the driver put it
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


STAGE_PROGRAM = (sys.executable, "-m", "stages")
POLL_SECONDS = 0.05
STDERR_LIMIT = 4_096


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

    def read_stderr(self) -> str:
        """What the supervisor wrote on stderr; its last words if it failed before it had a log."""
        if self.stderr is None:
            return ""
        self.stderr.seek(max(0, self.stderr.seek(0, os.SEEK_END) - STDERR_LIMIT))
        return self.stderr.read().decode(errors="replace").strip()


class LocalCluster:
    """The `Cluster` protocol on one machine. `program` runs a stage: it is given job.json's path."""

    name = "local"
    chained = False

    def __init__(self, store: Store, sweep: str, slots: Slots, *, program: Sequence[str] = STAGE_PROGRAM) -> None:
        self.store = store
        self.sweep = sweep
        self.slots = slots
        self.program = tuple(program)
        self._queue: list[AttemptRequest] = []
        self._running: dict[str, RunningAttempt] = {}

    def find_infeasible_reason(self, job: Job) -> str | None:
        return self.slots.find_infeasible_reason(job.resources)

    def adopt(self, jobs: Sequence[Job]) -> None:
        """Counts the slots that they hold, and waits for the end of their lock."""
        for job in jobs:
            run = self._run(job)
            start = _newest_start(run)
            devices = tuple(name for name in start.devices.split(",") if name) if start else ()
            lease = Allocation(start.cpus if start else 1, devices if start and start.gpus else ())
            self.slots.add_allocation(lease)
            self._running[job.key] = RunningAttempt(
                job=job, run=run, allocation=lease, id=start.attempt if start else ""
            )

    def submit(self, requests: Sequence[AttemptRequest]) -> Sequence[AcceptedRequest | RefusedRequest]:
        self._queue = sorted([*self._queue, *requests], key=lambda request: request.rank)
        return [
            AcceptedRequest(key=request.job.key, id=choose_attempt_name(self._run(request.job))) for request in requests
        ]

    def observe(self) -> Mapping[str, Observation]:
        seen = {request.job.key: Observation(state=ClusterState.QUEUED) for request in self._queue}
        for key, running in list(self._running.items()):
            if running.alive:
                seen[key] = Observation(state=ClusterState.RUNNING, id=running.id)
            else:
                seen[key] = self._reap(key, running)
        return seen

    def cancel(self, keys: Collection[str]) -> None:
        self._queue = [request for request in self._queue if request.job.key not in keys]
        for running in self._live(keys):
            self._signal(running, signal.SIGTERM)

    def kill(self, keys: Collection[str]) -> None:
        for running in self._live(keys):
            found = _newest_attempt(running.run)
            if found is not None:
                kill_attempt_processes(found[0].root)

    def wait(self, seconds: float) -> None:
        """Starts what fits, then waits for the first attempt to end."""
        self._start_what_fits()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and all(running.alive for running in self._running.values()):
            time.sleep(POLL_SECONDS)

    def _start_what_fits(self) -> None:
        """In the order of rank. One that lacks a resource holds that resource back from those behind it."""
        short: set[str] = set()
        for request in list(self._queue):
            resources = request.job.resources
            short |= self.slots.find_shortages(resources)
            if "cpus" in short:
                return
            if resources.gpus and "gpus" in short:
                continue
            self._queue.remove(request)
            self._start(request)

    def _start(self, request: AttemptRequest) -> None:
        job = request.job
        run = self._run(job)
        lease = self.slots.allocate(job.resources)
        attempt = choose_attempt_name(run)
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would break with this runner
        process = subprocess.Popen(
            self._command(job, attempt),
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # neither Ctrl-C nor the end of this terminal reaches it
            env=_environment(lease),
        )
        self._running[job.key] = RunningAttempt(
            job=job, run=run, allocation=lease, id=attempt, process=process, stderr=stderr
        )

    def _command(self, job: Job, attempt: str) -> list[str]:
        resources = job.resources
        return [
            *(sys.executable, "-m", "jobs.attempt"),
            *("--store", str(self.store.root.resolve()), "--sweep", self.sweep, "--key", job.key),
            *("--attempt", attempt, "--backend", self.name, "--nodes", str(resources.nodes)),
            *("--cpus", str(resources.cpus * resources.nodes), "--gpus", str(resources.gpus)),
            *("--gpu-type", resources.gpu_type, "--", *self.program),
        ]

    def _reap(self, key: str, running: RunningAttempt) -> Observation:
        del self._running[key]
        self.slots.release(running.allocation)
        returncode = running.process.poll() if running.process else None
        message = running.read_stderr()
        if running.stderr is not None:
            running.stderr.close()
        return Observation(state=ClusterState.ENDED, id=running.id, returncode=returncode, message=message)

    def _signal(self, running: RunningAttempt, number: signal.Signals) -> None:
        if running.process is not None and running.process.poll() is None:
            running.process.send_signal(number)
            return
        found = _newest_attempt(running.run)
        if found is not None:
            signal_attempt(found[1], found[0].root, number)

    def _live(self, keys: Collection[str]) -> list[RunningAttempt]:
        return [running for key, running in self._running.items() if key in keys]

    def _run(self, job: Job) -> RunPaths:
        return self.store.locate_run(job.stage, job.key)


def choose_attempt_name(run: RunPaths) -> str:
    """The name of the run's next attempt. Whoever makes its folder first has it: two deciders start one attempt."""
    try:
        numbers = [
            int(path.name.rpartition("-")[2]) for path in run.attempts.iterdir() if path.name.startswith("local-")
        ]
    except (FileNotFoundError, NotADirectoryError):
        numbers = []
    return f"local-{max(numbers, default=0) + 1:04d}"


def _environment(lease: Allocation) -> dict[str, str]:
    """Threads and devices of one attempt; no GPU is visible to one that asked for none."""
    threads = str(lease.cpus)
    return os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(lease.devices), "OMP_NUM_THREADS": threads}


def _newest_attempt(run: RunPaths) -> tuple[AttemptPaths, AttemptStart] | None:
    try:
        folders = [AttemptPaths(path) for path in run.attempts.iterdir()]
    except FileNotFoundError:
        return None
    found = [(folder, start) for folder in folders if (start := AttemptStart.read(folder.start)) is not None]
    return max(found, key=lambda pair: pair[1].started_at, default=None)


def _newest_start(run: RunPaths) -> AttemptStart | None:
    found = _newest_attempt(run)
    return found[1] if found else None


def stop_attempt(run: RunPaths, *, at_once: bool = False) -> bool:
    """Asks the run's live attempt to save and stop, or kills it; from any process here. False: none lives."""
    found = _newest_attempt(run)
    if found is None or not is_held(run.lock):
        return False
    paths, start = found
    if at_once:
        kill_attempt_processes(paths.root)
    else:
        signal_attempt(start, paths.root, signal.SIGTERM)
    return True
