"""What execution needs to know of a run's checkpoints: how far they got, and when."""

import re
from dataclasses import dataclass
from pathlib import Path

from jobs.store.paths import RunPaths
from jobs.store.records import read_record

STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The newest whole checkpoint. `step` -1: there is none."""

    step: int = -1
    saved_at: float = 0.0
    """Unix seconds."""


def newest_checkpoint(run: RunPaths) -> Checkpoint:
    """The newest checkpoint whose files have their recorded sizes (the stage itself also compares checksums)."""
    try:
        folders = [path for path in run.checkpoints.iterdir() if STEP_FOLDER.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return Checkpoint()
    for folder in sorted(folders, key=_step, reverse=True):
        if _is_whole(folder):
            return Checkpoint(_step(folder), (folder / "record.json").stat().st_mtime)
    return Checkpoint()


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
