"""Results of a sweep that were read before and found valid, so that a report need not read 20,000 files again.

A result.json with the same inode, size and times of change is the file that was read; the files that it names are
measured each time. For showing only: nothing is decided, sent or set aside on it, as NFS may show a file's old times
for some seconds. The file may be removed at any time; it is written anew.
"""

import contextlib
import logging
import os
from pathlib import Path

from jobs.store.paths import open_replacement
from jobs.store.results import RESULT_NAME, ResultCheck, check_result_in, find_files_problem, render_identity

logger = logging.getLogger(__name__)

HEAD = "checked-results 1"
SEPARATOR = "\x1f"
LEAST_NEW = 50
"""Fewer new results are not worth a file: they are read again the next time."""


# Why: docs/decisions.md, D116
class CheckedResults:
    """One sweep's. `find_end` serves thousands of runs; `save` comes after the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = _read_lines(path)
        self._new: dict[str, str] = {}

    def check(self, folder: str, key: str) -> ResultCheck:
        """As `check_result_in`, except that the content of a file that was read before is its `finished_at` alone."""
        line = self._lines.get(key)
        if line is not None and (known := _check_known(folder, line)) is not None:
            return known
        check = check_result_in(folder, key)
        if check.content is not None:
            self._note(key, check)
        return check

    def _note(self, key: str, check: ResultCheck) -> None:
        content = check.content or {}
        ended = content.get("finished_at")
        words = [check.identity, repr(ended) if isinstance(ended, float) else ""]
        for name, size in content["files"].items():
            words += (name, str(size))
        if all(word.isprintable() for word in words):
            self._new[key] = SEPARATOR.join(words)

    def save(self) -> None:
        """Writes what was read anew, if it is enough. A store that refuses the write is no error."""
        if len(self._new) < LEAST_NEW:
            return
        lines = {**self._lines, **self._new}
        text = "".join(f"{key}{SEPARATOR}{line}\n" for key, line in lines.items())
        with contextlib.suppress(OSError), open_replacement(self._path) as unfinished:
            unfinished.write_text(f"{HEAD}\n{text}", encoding="utf-8")
            logger.info("%s: %d results noted as checked, %d of them new", self._path, len(lines), len(self._new))


def _read_lines(path: Path) -> dict[str, str]:
    """Lines by key; none of a file that is absent, of another version or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    head, _, rest = text.partition("\n")
    if head != HEAD or not text.endswith("\n"):
        return {}
    found = {}
    for line in rest.split("\n"):
        key, _, words = line.partition(SEPARATOR)
        found[key] = words
    return found


def _check_known(folder: str, line: str) -> ResultCheck | None:
    """The check of a result that is as it was; None if it is not."""
    identity, ended, *files = line.split(SEPARATOR)
    try:
        if render_identity(os.stat(f"{folder}/{RESULT_NAME}")) != identity:  # noqa: PTH116 - as in jobs.store.results
            return None
        sizes = {name: int(size) for name, size in zip(files[::2], files[1::2], strict=True)} if files else {}
        content = {"finished_at": float(ended)} if ended else {}
    except (OSError, ValueError):
        return None
    problem = find_files_problem(folder, sizes)
    return ResultCheck(None, f"{folder}/{RESULT_NAME}: {problem}") if problem else ResultCheck(content)
