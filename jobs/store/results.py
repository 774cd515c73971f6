"""Whether a job is done: its result.json is there and holds what it promises."""

import json
import os
from dataclasses import dataclass
from typing import Any

from jobs.store.paths import RunPaths

RESULT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ResultCheck:
    """`content` is the result if it is valid, else None and `problem` says why; no problem: there is no file."""

    content: dict[str, Any] | None
    problem: str = ""

    @property
    def valid(self) -> bool:
        return self.content is not None


def check_result(run: RunPaths, key: str) -> ResultCheck:
    """Valid: it parses, format and key are right, and every file in `files` has its size (docs/formats.md)."""
    try:
        content = json.loads(run.result.read_bytes())
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
