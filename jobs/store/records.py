"""What an attempt writes about itself: `start.json` when it begins, `exit.json` when it ends."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from jobs.store.paths import RunPaths, write_json
from jobs.store.reading import find_type_problem, list_field_checks, parse_object, read_file


class FailureClass(StrEnum):
    """Why an attempt ended without a result, as records and ledgers hold it.

    What each class means, and what follows from it: `POLICIES` in jobs/reconcile/failures.py.
    """

    OUT_OF_MEMORY = "out_of_memory"
    WALL_CLOCK = "wall_clock"
    PREEMPTED = "preempted"
    NODE_FAULT = "node_fault"
    PORT_TAKEN = "port_taken"
    HUNG = "hung"
    KILLED = "killed"
    DIVERGED = "diverged"
    DATA = "data"
    DAMAGED_INPUT = "damaged_input"
    STORAGE = "storage"
    CODE = "code"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


def parse_failure(given: object) -> FailureClass | None:
    """The class that a stored record names; UNKNOWN for one of a later version, None for none."""
    if not given:
        return None
    return FailureClass(given if isinstance(given, str) and given in [*FailureClass] else "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStart:
    """Which process runs the attempt, where, with which resources.

    `pid_started` and `boot_id` distinguish the attempt's process from another one that got the same pid later.
    """

    attempt: str
    key: str
    stage: str
    backend: str
    host: str
    pid: int
    pid_started: float
    """Clock ticks after boot at which the process began (/proc/PID/stat, field 22)."""
    boot_id: str
    started_at: float
    """Unix seconds."""
    cpus: int = 1
    gpus: int = 0
    gpu_type: str = ""
    nodes: int = 1
    devices: str = ""
    """GPU ids given to it, as in CUDA_VISIBLE_DEVICES. A later local runner sees by them which are in use."""
    checkpoint_step: int = -1
    """Step of the newest whole checkpoint at the start; -1 if there is none."""
    job_id: str = ""
    """Slurm's id, such as 123_4; empty without Slurm, as are the fields below."""
    batch: str = ""
    """Job name of its batch."""
    restart: int = 0
    """How often Slurm had requeued the job before."""
    node: str = ""
    """Slurm's name of the (first) node."""
    cluster_started_at: float = 0.0
    """When the cluster says that it started this execution, by its own clock; 0 if it does not say."""
    order: int = 0
    """The attempt's number in its run: more than any that was there. 0: an earlier version wrote it."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """By key of a parent: which of its results this attempt works on (`results.identify_result`)."""

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if the file is absent, torn or no such record. A field of a later version is left out."""
        content = read_record(path) or {}
        if not isinstance(content.get("parents", {}), dict):
            return None
        return build_record(cls, content)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptExit:
    """How the attempt ended. `failure` is None if it wrote the job's result."""

    attempt: str
    key: str
    ended_at: float
    """Unix seconds."""
    returncode: int
    """Of the stage's process; negative: killed by that signal."""
    failure: FailureClass | None
    message: str = ""
    """One line for `sweep status`."""
    traceback_digest: str = ""
    """The same digest twice means that the failure is deterministic."""
    damaged_key: str = ""
    """With `damaged_input`: key of the parent whose checkpoint is damaged."""
    checkpoint_step: int = -1
    """Step of the newest whole checkpoint at the end; -1 if there is none."""
    checkpoint_at: float = 0.0
    """Unix seconds at which that checkpoint was saved, by the attempt's own clock; 0 if there is none. Work after it is
    lost."""
    stop_signal: str = ""
    """The first signal that asked it to stop, such as SIGUSR2; empty if none did."""
    failed_node: str = ""
    """Slurm's name of the node on which a process of several saw the fault; empty: not known."""
    node_unsure: bool = False
    """Something else than the node may be to blame: another process, the network, the data."""

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if the file is absent, torn or no such record. A class or field of a later version is read as `unknown`
        or left out."""
        content = read_record(path) or {}
        content["failure"] = parse_failure(content.get("failure"))
        if isinstance(message := content.get("message"), str):
            content["message"] = " ".join(message.splitlines())
        return build_record(cls, content)


Record = TypeVar("Record")


def build_record(kind: type[Record], content: Mapping[str, Any]) -> Record | None:
    """A dataclass of what a file holds, without fields that a later version added; None if a field without a default
    is missing, or a value is of another type."""
    known = {name: content[name] for name in list_field_checks(kind) if name in content}
    if find_type_problem(kind, known):
        return None
    try:
        return kind(**known)
    except TypeError:
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object from disk; None if the file is absent, torn or no object."""
    try:
        return parse_object(read_file(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


SAME_CLOCK_SECONDS = 1.0


def measure_clock_lead(start: AttemptStart, path: Path) -> float:
    """Seconds by which the attempt's machine was ahead of the file server, which stamped start.json at `path`.

    What is added to the time of a file to have it by the attempt's own clock. 0 where both clocks agree.
    """
    try:
        lead = start.started_at - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    return lead if abs(lead) > SAME_CLOCK_SECONDS else 0.0


# How far a run's checkpoints got, and when.

STEP_FOLDER = re.compile(r"step-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class NewestCheckpoint:
    """The newest whole checkpoint. `step` -1: there is none."""

    step: int = -1
    saved_at: float = 0.0
    """Unix seconds, by the file server's clock."""


def find_newest_checkpoint(run: RunPaths) -> NewestCheckpoint:
    """The newest checkpoint whose files have their recorded sizes (the stage itself also compares checksums)."""
    try:
        folders = [path for path in run.checkpoints.iterdir() if STEP_FOLDER.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return NewestCheckpoint()
    for folder in sorted(folders, key=_step, reverse=True):
        if _is_whole(folder):
            return NewestCheckpoint(_step(folder), (folder / "record.json").stat().st_mtime)
    return NewestCheckpoint()


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _is_whole(folder: Path) -> bool:
    record = read_record(folder / "record.json")
    if record is None or not isinstance(record.get("files"), dict):
        return False
    try:
        return all((folder / name).stat().st_size == entry["bytes"] for name, entry in record["files"].items())
    except (OSError, TypeError, KeyError, ValueError):  # ValueError: a name with a zero byte
        return False
