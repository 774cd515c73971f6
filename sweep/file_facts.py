"""What tells the files of a data set from others without reading them: names, sizes, times of change."""

import os
from collections.abc import Iterator
from pathlib import Path

MOST_FILES = 20_000
"""Of a folder without a description, so many files are looked at."""
DESCRIPTIONS = ("dataset.json", "manifest.jsonl")
"""Files that say what a folder of shards holds; where there is one, the shards themselves are not looked at."""


def is_present(path: str) -> bool:
    """Whether there is something at a local path, and this user may look at it."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def iter_file_facts(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, size, time of change) of a file, or of the files of a folder, which are those that a job reads first."""
    try:
        if not path.is_dir():
            yield read_file_facts(path)
            return
        described = [path / name for name in DESCRIPTIONS if (path / name).exists()]
        if described:
            yield from map(read_file_facts, described)
            return
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        yield str(len(names)), 0, 0
        for name in names[:MOST_FILES]:
            yield read_file_facts(path / name)
    except OSError:
        return  # the count itself says what is wrong


def read_file_facts(path: Path) -> tuple[str, int, int]:
    """Name, bytes and nanoseconds."""
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns
