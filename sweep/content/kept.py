"""Digests of local data, found once and kept in the store for as long as the files are the same.

A kept digest holds the facts (name, size, times of change) of the files that were read. If one of them has changed, the
data are read again. So the second plan asks a file system for some dozens of files of each data set, and reads none.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.store.paths import Store, write_json
from jobs.store.reading import parse_object, read_file
from stages.data.addresses import has_several_places, list_local_paths
from stages.errors import DataError
from sweep.content.digest import DIGITS, FORMAT, PREFIX, UnreadableDataError, read_content, read_content_facts
from sweep.file_facts import is_present

DIGEST = re.compile(rf"{PREFIX}[0-9a-f]{{{DIGITS}}}")


class DataContents:
    """Contents of local data, for one store. What it finds anew is kept by `save`."""

    def __init__(self, store: Store) -> None:
        self.folder = store.contents
        self.problems: dict[str, str] = {}
        """Why data that are there are not known by their content, by path."""
        self._new: dict[Path, dict[str, Any]] = {}

    def is_kept(self, kind: str, path: str, task: str = "") -> bool:
        """Whether `find_content` need not read the data."""
        return (
            not is_local(path)
            or not is_present(f"{path}/{task}" if task else path)
            or bool(self._read_kept(kind, path, task))
        )

    def find_content(self, kind: str, path: str, task: str = "") -> str:
        """The digest; empty for what lies elsewhere, is absent, or cannot be read, which is a problem."""
        if not is_local(path) or not is_present(path) or (task and not is_present(f"{path}/{task}")):
            return ""
        if kept := self._read_kept(kind, path, task):
            return kept
        try:
            places = list_local_paths(path) if has_several_places(path) else [Path(path)]
            content, facts = read_content(kind, places[0], task, further=places[1:])
        except (UnreadableDataError, DataError) as error:
            self.problems[path] = str(error)
            return ""
        self._new[self._locate(kind, path, task)] = {"format": FORMAT, "content": content, "files": facts}
        return content

    def save(self) -> None:
        """Keeps what was found anew. OSError."""
        for path, record in self._new.items():
            write_json(path, record, lasting=False)
        self._new.clear()

    def _locate(self, kind: str, path: str, task: str) -> Path:
        asked = json.dumps([FORMAT, kind, path, task]).encode()
        return self.folder / f"{hashlib.sha256(asked).hexdigest()[:24]}.json"

    def _read_kept(self, kind: str, path: str, task: str) -> str:
        place = self._locate(kind, path, task)
        record = self._new.get(place)
        try:
            if record is None:
                record = parse_object(read_file(place))
            content, files = record["content"], record["files"]
            same = bool(DIGEST.fullmatch(content)) and all(is_unchanged(name, facts) for name, facts in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ""
        return content if same and files else ""


def is_local(path: str) -> bool:
    """Whether it is a path, and no address of a server."""
    return "://" not in path


def is_unchanged(name: str, facts: object) -> bool:
    """Whether a file has the facts that were kept of it. OSError if it is gone."""
    return isinstance(facts, list | tuple) and list(read_content_facts(Path(name))) == list(facts)


def describe_content(content: str) -> str:
    """Short, for people."""
    return content.removeprefix(PREFIX)[:12] or "not known"


def list_problem_lines(problems: Mapping[str, str]) -> list[str]:
    """A remark on each data set that is there and is not known by its content."""
    return [f"known by name and revision only: {problem}" for problem in problems.values()]
