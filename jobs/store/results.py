"""Whether a job is done: result.json exists and is valid."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.store.flock import acquire_lock
from jobs.store.paths import RunPaths, Store
from jobs.store.reading import read_file

RESULT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ResultCheck:
    """`content` is the result if it is valid. Else `problem` says why not; it is empty if there is no file."""

    content: dict[str, Any] | None
    problem: str = ""

    @property
    def valid(self) -> bool:
        return self.content is not None


def check_result(run: RunPaths, key: str) -> ResultCheck:
    """A result is valid if it parses, its format and key are right, and every file in `files` has its size."""
    try:
        content = json.loads(read_file(run.result))
    except (FileNotFoundError, NotADirectoryError):
        return ResultCheck(None)
    except ValueError as error:
        return ResultCheck(None, f"{run.result}: not JSON ({error})")
    problem = _content_problem(content, key) or _files_problem(run, content["files"])
    return ResultCheck(None, f"{run.result}: {problem}") if problem else ResultCheck(content)


def _content_problem(content: object, key: str) -> str:
    if not isinstance(content, dict):
        return "not a JSON object"
    if content.get("format") != RESULT_FORMAT:
        return f"format {content.get('format')!r}; this version reads {RESULT_FORMAT}"
    if content.get("key") != key:
        return f"key {content.get('key')!r} is not this run's {key}"
    return "" if isinstance(content.get("files"), dict) else "`files` is missing"


def _files_problem(run: RunPaths, files: dict[str, Any]) -> str:
    root = str(run.root)
    for name, size in files.items():
        if name.startswith("/") or ".." in name.split("/"):
            return f"file {name!r} lies outside the run's folder"
        try:
            found = os.stat(f"{root}/{name}").st_size  # noqa: PTH116 - thousands of files, and a Path costs more than the call
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
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
