"""Whether a job is done: result.json exists and is valid."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.store.flock import acquire_lock
from jobs.store.paths import SAFE_NAME, RunPaths, Store, flush_folder
from jobs.store.reading import is_time, parse_json, read_file_and_status

RESULT_FORMAT = 1
RESULT_NAME = RunPaths(Path()).result.name
SAFE_PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._+=-]{1,200}")
"""A name in a run's folder; unfinished files begin with a dot."""


@dataclass(frozen=True, slots=True)
class ResultCheck:
    """`content` is the result if it is valid. Else `problem` says why not; it is empty if there is no file."""

    content: dict[str, Any] | None
    problem: str = ""
    identity: str = ""
    """Of the file that was read, where it is valid: no other version of it has the same."""

    @property
    def valid(self) -> bool:
        return self.content is not None


ABSENT = ResultCheck(None)


def check_result(run: RunPaths, key: str) -> ResultCheck:
    """A result is valid if it parses, its format and key are right, and every file in `files` has its size."""
    return check_result_in(str(run.root), key)


def check_result_in(folder: str, key: str) -> ResultCheck:
    """The same of a run's folder. Thousands of runs are read at once, and a Path costs more than the calls."""
    name = f"{folder}/{RESULT_NAME}"
    try:
        text, known = read_file_and_status(name)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    try:
        content = parse_json(text)
    except ValueError as error:
        return ResultCheck(None, f"{name}: not JSON ({error})")
    problem = _content_problem(content, key) or _files_problem(folder, content["files"], text)
    return ResultCheck(None, f"{name}: {problem}") if problem else ResultCheck(content, identity=render_identity(known))


def identify_result(path: Path) -> str:
    """Tells one result of a job from any other; empty if there is none. Each says when it was written, and by what."""
    try:
        return _digest_result(read_file_and_status(path)[0])
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _digest_result(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]


def read_finished_at(content: Mapping[str, Any]) -> float:
    """When a result says that its job was done, in Unix seconds; 0 if it does not say."""
    given = content.get("finished_at")
    return float(given) if is_time(given) else 0.0  # type: ignore[arg-type]  # a number, as was just asked


def render_identity(known: os.stat_result) -> str:
    """One word of four: results are replaced as whole files, and so change their inode and times."""
    return f"{known.st_ino} {known.st_size} {known.st_mtime_ns} {known.st_ctime_ns}"


def is_known_format(given: object, own: int) -> bool:
    """Whether a stored file can be read: it has this version's format, or a later one, which keeps what this knows."""
    return isinstance(given, int) and not isinstance(given, bool) and given >= own


def _content_problem(content: object, key: str) -> str:
    if not isinstance(content, dict):
        return "not a JSON object"
    # Why: docs/decisions.md, D163
    if not is_known_format(content.get("format"), RESULT_FORMAT):
        given = repr(content.get("format"))[:60]
        return f"format {given}; this version reads {RESULT_FORMAT}, and what later ones add to it"
    if content.get("key") != key:
        return f"key {repr(content.get('key'))[:60]} is not this run's {key}"
    return "" if isinstance(content.get("files"), dict) else "`files` is missing"


def _files_problem(root: str, files: dict[str, Any], text: bytes) -> str:
    """`text`: the result's own. A file that was set aside for this very result may be absent."""
    absent = []
    for name, size in files.items():
        if name.startswith("/") or ".." in name.split("/"):
            return f"file {name!r} lies outside the run's folder"
        try:
            found = os.stat(f"{root}/{name}").st_size  # noqa: PTH116 - thousands of files, and a Path costs more than the call
        except (FileNotFoundError, NotADirectoryError):
            absent.append(name)
            continue
        except ValueError:  # a zero byte or half a character
            return f"{name!r} is no file name"
        except OSError as error:
            if error.errno not in {errno.ENAMETOOLONG, errno.ELOOP}:
                raise
            return f"{name[:80]!r} is no file name: {error.strerror}"
        if found != size:
            return f"{name} has {found} bytes, not {size}"
    return _absence_problem(root, absent, text) if absent else ""


def _absence_problem(root: str, absent: Sequence[str], text: bytes) -> str:
    try:
        mark = read_set_aside_mark(RunPaths(Path(root)))
    except ValueError as error:
        return f"{absent[0]} is missing, and {error}"
    if mark is None or mark.result != _digest_result(text):
        return f"{absent[0]} is missing"
    lost = [name for name in absent if not mark.has_path(name)]
    return f"{lost[0]} is missing" if lost else ""


# Files of a run that `sweep gc` moved to the trash: a finished job without them is still done.


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAsidePath:
    """A file or folder of a run that is in the trash, or that may be moved there now."""

    trash_id: str
    bytes: int = 0
    inodes: int = 0
    read: bool = True
    """Whether a job may read it: not an older checkpoint, nor what a killed writer left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAsideMark:
    """A run's set-aside.json. It comes before its files are moved, and goes after they are back."""

    result: str
    """Which result the files belong to (`identify_result`); empty: to a run that has none."""
    paths: Mapping[str, SetAsidePath]
    """By name, relative to the run's folder."""

    def has_path(self, name: str) -> bool:
        """Whether the file was set aside, by itself or with a folder above it."""
        parts = name.split("/")
        return any("/".join(parts[:depth]) in self.paths for depth in range(1, len(parts) + 1))


SET_ASIDE_FORMAT = 1


# Why: docs/decisions.md, D238
def read_set_aside_mark(run: RunPaths) -> SetAsideMark | None:
    """What of the run is set aside; None if nothing is. Raises ValueError for a file that is no such mark.

    A later version's mark is read as far as it is known here.
    """
    try:
        content = parse_json(read_file_and_status(run.set_aside)[0])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{run.set_aside}: not JSON ({error})") from None
    if not (isinstance(content, dict) and is_known_format(content.get("format"), SET_ASIDE_FORMAT)):
        raise ValueError(f"{run.set_aside}: no record of what was set aside")
    paths, result = content.get("paths"), content.get("result")
    if not (isinstance(paths, dict) and isinstance(result, str)):
        raise ValueError(f"{run.set_aside}: `paths` or `result` is missing")
    return SetAsideMark(result=result, paths={name: _parse_set_aside(run, name, each) for name, each in paths.items()})


def _parse_set_aside(run: RunPaths, name: str, given: object) -> SetAsidePath:
    parts = name.split("/")
    # one plain name after the other: what is moved stays within the run's folder, and within the trash
    if not all(SAFE_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{run.set_aside}: {name[:80]!r} is no file of a run")
    if not (isinstance(given, dict) and isinstance(given.get("id"), str) and SAFE_NAME.fullmatch(given["id"])):
        raise ValueError(f"{run.set_aside}: {name[:80]!r} names no folder of the trash")
    sizes = {unit: given.get(unit, 0) for unit in ("bytes", "inodes")}
    if not all(isinstance(size, int) and size >= 0 for size in sizes.values()):
        raise ValueError(f"{run.set_aside}: {name[:80]!r} has no size")
    return SetAsidePath(trash_id=given["id"], read=given.get("read") is not False, **sizes)


# A finished job runs again if a child found its checkpoint damaged.


def set_result_aside(run: RunPaths) -> bool:
    """Renames result.json to result.damaged.json. Returns False if an attempt lives, which might lose its result."""
    lock = acquire_lock(run.lock, wait_seconds=1.0)
    if lock is None:
        return False
    try:
        with contextlib.suppress(FileNotFoundError):  # somebody else was faster
            run.result.replace(run.damaged_result)
        run.set_aside.unlink(missing_ok=True)  # what the trash has is of that result
        flush_folder(run.root)
    finally:
        os.close(lock)
    return True


# Which jobs of a plan have begun, and which are done.


def list_begun_keys(store: Store, jobs: Iterable[Job]) -> frozenset[str]:
    """Keys of the jobs that have a folder, so that an attempt has begun. Lists one folder for each stage."""
    folders: dict[str, frozenset[str]] = {}
    begun = []
    for job in jobs:
        if job.stage not in folders:
            folders[job.stage] = list_names(store.runs / job.stage)
        if job.key in folders[job.stage]:
            begun.append(job.key)
    return frozenset(begun)


def list_finished_keys(store: Store, jobs: Iterable[Job]) -> frozenset[str]:
    """Keys of the jobs that have a valid result."""
    jobs = tuple(jobs)
    begun = list_begun_keys(store, jobs)
    return frozenset(
        job.key
        for job in jobs
        if job.key in begun and check_result(store.locate_run(job.stage, job.key), job.key).valid
    )


def list_names(folder: Path) -> frozenset[str]:
    """Names of a folder's entries; empty if there is no folder."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names, not 100,000 Path objects
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
