"""What tells the files of a data set from others without reading them: names, sizes, times of change."""

import os
from collections.abc import Iterator
from pathlib import Path

MOST_FILES = 20_000
"""Of a folder without a description, so many files are looked at."""
MOST_IN_TREE = 1_000
"""Of a folder with more entries only its own time of change counts: 100,000 images are not asked."""
TREE_DEPTH = 4
DESCRIPTIONS = ("dataset.json", "manifest.jsonl")
"""Files that say what a folder of shards holds; where there is one, the shards themselves are not looked at."""

FileFacts = tuple[str, int, int]
"""Name, bytes, time of change in nanoseconds."""


def is_present(path: str) -> bool:
    """Whether there is something at a local path, and this user may look at it."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def iter_file_facts(path: Path) -> Iterator[FileFacts]:
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


def read_file_facts(path: Path) -> FileFacts:
    """Name, bytes and nanoseconds."""
    facts = path.stat()
    return path.name, facts.st_size, facts.st_mtime_ns


def iter_tree_facts(folder: Path, depth: int = TREE_DEPTH) -> Iterator[FileFacts]:
    """The facts of a folder and of what lies below it, some levels deep: of each folder its time of change, which moves
    when a name comes or goes, and of each file in a folder of at most `MOST_IN_TREE` entries."""
    try:
        yield read_file_facts(folder)
        with os.scandir(folder) as entries:
            found = [entry for entry, _ in zip(entries, range(MOST_IN_TREE + 1), strict=False)]
    except OSError:
        return
    crowded = len(found) > MOST_IN_TREE
    for entry in sorted(found, key=lambda each: each.name):
        try:
            is_folder = entry.is_dir()
            if not (crowded or is_folder):
                yield read_file_facts(Path(entry.path))
        except OSError:
            continue  # a link to nothing
        if is_folder and depth:
            yield from iter_tree_facts(Path(entry.path), depth - 1)
