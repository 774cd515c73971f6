"""What an attempt writes about itself: `start.json` when it begins, `exit.json` when it ends."""

import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from jobs.store.paths import RunPaths, write_json


class FailureClass(StrEnum):
    """Why an attempt ended without a result, as records and ledgers hold it.

    What each class means, and what follows from it: `POLICIES` in jobs/reconcile/failures.py.
    """

    OUT_OF_MEMORY = "out_of_memory"
    WALL_CLOCK = "wall_clock"
    PREEMPTED = "preempted"
    NODE_FAULT = "node_fault"
    KILLED = "killed"
    DIVERGED = "diverged"
    DATA = "data"
    DAMAGED_INPUT = "damaged_input"
    STORAGE = "storage"
    CODE = "code"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"


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

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if the file is absent or torn."""
        content = read_record(path)
        return cls(**content) if content else None


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
    """Unix seconds at which that checkpoint was saved, 0 if there is none. Work after it is lost."""
    stop_signal: str = ""
    """The first signal that asked it to stop, such as SIGUSR2; empty if none did."""

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None if the file is absent or torn."""
        content = read_record(path)
        if not content:
            return None
        content["failure"] = FailureClass(content["failure"]) if content["failure"] else None
        return cls(**content)


def read_record(path: Path) -> dict[str, Any] | None:
    """A JSON object from disk; None if the file is absent, torn or no object."""
    try:
        with open(path, "rb", 0) as file:  # noqa: PTH123 - thousands of them
            content = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


# How far a run's checkpoints got, and when.

STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class NewestCheckpoint:
    """The newest whole checkpoint. `step` -1: there is none."""

    step: int = -1
    saved_at: float = 0.0
    """Unix seconds."""


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
    except (OSError, TypeError, KeyError):
        return False
