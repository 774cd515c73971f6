"""Whether a job is done: result.json exists and is valid."""

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.store.flock import acquire_lock
from jobs.store.paths import RunPaths, Store, flush_folder
from jobs.store.reading import is_time, parse_json, read_file_and_status

RESULT_FORMAT = 1
RESULT_NAME = RunPaths(Path()).result.name


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
    problem = _content_problem(content, key) or _files_problem(folder, content["files"])
    return ResultCheck(None, f"{name}: {problem}") if problem else ResultCheck(content, identity=render_identity(known))


def identify_result(path: Path) -> str:
    """Tells one result of a job from any other; empty if there is none. Each says when it was written, and by what."""
    try:
        return hashlib.sha256(read_file_and_status(path)[0]).hexdigest()[:32]
    except (FileNotFoundError, NotADirectoryError):
        return ""


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


def _files_problem(root: str, files: dict[str, Any]) -> str:
    for name, size in files.items():
        if name.startswith("/") or ".." in name.split("/"):
            return f"file {name!r} lies outside the run's folder"
        try:
            found = os.stat(f"{root}/{name}").st_size  # noqa: PTH116 - thousands of files, and a Path costs more than the call
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except ValueError:  # a zero byte or half a character
            return f"{name!r} is no file name"
        except OSError as error:
            if error.errno not in {errno.ENAMETOOLONG, errno.ELOOP}:
                raise
            return f"{name[:80]!r} is no file name: {error.strerror}"
        if found != size:
            return f"{name} has {found} bytes, not {size}"
    return ""


# A finished job runs again if a child found its checkpoint damaged.


def set_result_aside(run: RunPaths) -> bool:
    """Renames result.json to result.damaged.json. Returns False if an attempt lives, which might lose its result."""
    lock = acquire_lock(run.lock, wait_seconds=1.0)
    if lock is None:
        return False
    try:
        run.result.replace(run.damaged_result)
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
