"""Results of a sweep that were read before and found valid, so that a report need not read 20,000 files again.

A result.json with the same inode, size and times of change is the file that was read, and a folder with the same holds
the same files as when they were measured. For showing only: nothing is decided, sent or set aside on it, as NFS may
show old times for some seconds. The file may be removed at any time; it is written anew.
"""

import contextlib
import logging
import os
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.paths import open_replacement
from jobs.store.reading import read_file
from jobs.store.results import RESULT_NAME, ResultCheck, check_result_in, read_finished_at, render_identity

logger = logging.getLogger(__name__)

HEAD = "checked-results 1"
SEPARATOR = "\x1f"
LEAST_NEW = 50
"""Fewer new results are not worth a file: they are read again the next time."""
SETTLED_S = 10.0
"""A folder that changed less long ago is not noted."""


# Why: docs/decisions.md, D111
class CheckedResults:
    """One sweep's. `save` comes after the last `check`."""

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._lines = _read_lines(path)
        self._new: dict[str, str] = {}
        self._began_at = clock.now()

    def find_end(self, folder: str, key: str) -> float | None:
        """When the job was done, in Unix seconds (0: its result does not say), if its result is as it was when it was
        read; None if it has to be read again."""
        line = self._lines.get(key)
        return None if line is None else _find_known_end(folder, line)

    def check(self, folder: str, key: str) -> ResultCheck:
        """Reads the result."""
        check = check_result_in(folder, key)
        if check.content is not None:
            self._note(folder, key, check)
        return check

    def _note(self, folder: str, key: str, check: ResultCheck) -> None:
        content = check.content or {}
        words = [check.identity, repr(read_finished_at(content))]
        for inner in dict.fromkeys(name.rpartition("/")[0] for name in content["files"]):
            try:
                known = os.stat(f"{folder}/{inner}")  # noqa: PTH116 - as in jobs.store.results
            except OSError:  # it went a moment ago
                return
            if known.st_mtime > self._began_at - SETTLED_S:
                return  # it may have changed since its files were measured, within one tick of the file system's clock
            words += (inner, render_identity(known))
        if all(word.isprintable() for word in words):
            self._new[key] = SEPARATOR.join(words)

    def save(self) -> None:
        """Writes what was read anew, if it is enough. A store that refuses the write is no error."""
        if len(self._new) < LEAST_NEW:
            return
        lines = {**self._lines, **self._new}
        text = "".join(f"{key}{SEPARATOR}{line}\n" for key, line in lines.items())
        with contextlib.suppress(OSError), open_replacement(self._path, lasting=False) as unfinished:
            unfinished.write_text(f"{HEAD}\n{text}", encoding="utf-8")
            logger.info("%s: %d results noted as checked, %d of them new", self._path, len(lines), len(self._new))


def _read_lines(path: Path) -> dict[str, str]:
    """Lines by key; none of a file that is absent, of another version or damaged."""
    try:
        text = read_file(path).decode()
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


def _find_known_end(folder: str, line: str) -> float | None:
    identity, ended, *folders = line.split(SEPARATOR)
    try:
        if render_identity(os.stat(f"{folder}/{RESULT_NAME}")) != identity:  # noqa: PTH116
            return None
        for inner, known in zip(folders[::2], folders[1::2], strict=True):
            if render_identity(os.stat(f"{folder}/{inner}")) != known:  # noqa: PTH116
                return None
        return float(ended or 0.0)
    except (OSError, ValueError):
        return None
