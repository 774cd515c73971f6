"""What run folders hold, by kind: bytes and inodes. No link is followed, and nothing is read but names."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from jobs.set_aside import OPTIMIZER_NAME, measure_tree
from jobs.store.paths import SAFE_NAME, RunPaths
from jobs.store.results import SAFE_PART, list_names

STEP_FOLDER = re.compile(r"step-([0-9]{1,18})")
UNFINISHED = re.compile(r"\..+\.tmp")
"""What a writer leaves that was killed: a file or folder that never got its name."""


class FileKind(StrEnum):
    """In the order in which `sweep gc` lists them."""

    WEIGHTS = "weights"
    """A checkpoint but for the optimizer's state: of a finished run the final one, of another all."""
    OPTIMIZER = "optimizer states"
    OLDER = "older checkpoints"
    """Of a finished run, before its final one."""
    UNFINISHED = "unfinished files"
    TABLES = "metrics and scores"
    RECORDS = "records"
    """Results, claims, what attempts say of themselves."""
    LOGS = "logs"
    FEATURES = "features"
    """Of frozen encoders, for all jobs of the store."""
    OTHER = "other files"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """A file or folder of a run."""

    kind: FileKind
    path: str
    """Relative to the run's folder."""
    bytes: int
    inodes: int


def list_run_files(
    run: RunPaths, *, final: str = "", done: bool = False, branch_steps: Collection[int] = ()
) -> list[FoundFiles]:
    """All that a run's folder holds. `final`: the checkpoint that its result names. `branch_steps`: steps whose
    checkpoints its settings keep for ever."""
    found: list[FoundFiles] = []
    for name in sorted(list_names(run.root)):
        path = run.root / name
        if name == run.checkpoints.name and path.is_dir() and not path.is_symlink():
            found += _list_checkpoints(path, final=final, done=done, branch_steps=branch_steps)
        elif name == run.attempts.name:
            found += _list_attempts(path)
        else:
            found += _measure(path, name, _find_kind(run, name))
    return found


def _find_kind(run: RunPaths, name: str) -> FileKind:
    if name in {run.metrics.name, run.questions.name}:
        return FileKind.TABLES
    records = (run.job, run.result, run.damaged_result, run.lock, run.claims, run.set_aside)
    if name in {each.name for each in records}:
        return FileKind.RECORDS
    return _find_leftover_kind(name)


def _find_leftover_kind(name: str) -> FileKind:
    """A name that no mark could hold stays: it could not be brought back (`jobs.store.results`)."""
    return FileKind.UNFINISHED if UNFINISHED.fullmatch(name) and SAFE_PART.fullmatch(name) else FileKind.OTHER


def _measure(path: Path, name: str, kind: FileKind) -> Iterator[FoundFiles]:
    try:
        size, inodes = measure_tree(path)
    except FileNotFoundError:  # it went a moment ago
        return
    yield FoundFiles(kind=kind, path=name, bytes=size, inodes=inodes)


def _list_attempts(folder: Path) -> Iterator[FoundFiles]:
    """Logs apart from records; each attempt's folder is one inode of its records."""
    for name in sorted(list_names(folder)):
        for inner in sorted(list_names(folder / name)):
            kind = FileKind.LOGS if inner.endswith(".txt") else FileKind.RECORDS
            yield from _measure(folder / name / inner, f"{folder.name}/{name}/{inner}", kind)
        yield FoundFiles(kind=FileKind.RECORDS, path=f"{folder.name}/{name}", bytes=0, inodes=1)


def _list_checkpoints(folder: Path, *, final: str, done: bool, branch_steps: Collection[int]) -> Iterator[FoundFiles]:
    for name in sorted(list_names(folder)):
        place = f"{folder.name}/{name}"
        step = STEP_FOLDER.fullmatch(name)
        if step is None or (folder / name).is_symlink():
            yield from _measure(folder / name, place, _find_leftover_kind(name))
        elif done and place != final:
            kind = FileKind.OTHER if int(step[1]) in branch_steps else FileKind.OLDER
            yield from _measure(folder / name, place, kind)
        else:
            yield from _split_checkpoint(folder / name, place)


def _split_checkpoint(folder: Path, place: str) -> Iterator[FoundFiles]:
    """The optimizer's state apart from the rest, the folder itself among that."""
    optimizer = list(_measure(folder / OPTIMIZER_NAME, f"{place}/{OPTIMIZER_NAME}", FileKind.OPTIMIZER))
    for whole in _measure(folder, place, FileKind.WEIGHTS):
        yield FoundFiles(
            kind=FileKind.WEIGHTS,
            path=place,
            bytes=whole.bytes - sum(each.bytes for each in optimizer),
            inodes=whole.inodes - sum(each.inodes for each in optimizer),
        )
    yield from optimizer


def list_run_names(runs: Path) -> list[tuple[str, str]]:
    """(stage, key) of every run folder of a store; folders of names that no run can have are left alone."""
    stages = sorted(name for name in list_names(runs) if SAFE_NAME.fullmatch(name))
    keys = {stage: sorted(name for name in list_names(runs / stage) if SAFE_NAME.fullmatch(name)) for stage in stages}
    return [(stage, key) for stage in stages for key in keys[stage] if (runs / stage / key).is_dir()]
