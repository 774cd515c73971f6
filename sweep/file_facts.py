"""What tells the files of a data set from others without reading them: names, sizes, times of change."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.data.addresses import has_several_places, list_near_paths
from stages.errors import DataError

MOST_FILES = 20_000
"""Of a folder without a description, so many files are looked at."""
MOST_IN_TREE = 5_000
TREE_DEPTH = 4
MOST_IN_FOLDER = 1_000
"""Of a folder with more entries only its own time of change counts: 100,000 images are not asked."""
DESCRIPTIONS = ("dataset.json", "manifest.jsonl")
"""Files that say what a folder of shards holds; where there is one, the shards themselves are not looked at."""

FileFacts = tuple[str, int, int]
"""Name, bytes, time of change in nanoseconds."""


def is_present(path: str) -> bool:
    """Whether there is something at a local path, and this user may look at it; of several, at the first and last."""
    try:
        return check_presence(path)
    except OSError:
        return False


def check_presence(path: str) -> bool:
    """The same; OSError where this user may not look."""
    if not has_several_places(path):
        return Path(path).exists()
    try:
        paths = list_near_paths(path)
    except DataError:
        return False
    return bool(paths) and paths[0].exists() and paths[-1].exists()


def iter_address_facts(path: str) -> Iterator[FileFacts]:
    """As `iter_file_facts`, of each place of an address; of shards in a described folder, those of the description."""
    if not has_several_places(path):
        yield from iter_file_facts(Path(path))
        return
    paths = list_near_paths(path)
    yield str(len(paths)), 0, 0
    folders = dict.fromkeys(each.parent for each in paths)
    for folder in folders:
        for name in DESCRIPTIONS:
            if (folder / name).exists():
                yield read_file_facts(folder / name)
    bare = [each for each in paths if each.is_dir() or not (each.parent / DESCRIPTIONS[-1]).exists()]
    for each in bare[:MOST_FILES]:
        yield from iter_file_facts(each)


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


def iter_tree_facts(folder: Path) -> Iterator[FileFacts]:
    """The facts of a folder and of what lies below it, some levels deep, at most `MOST_IN_TREE` of them.

    Of each folder its time of change, which moves when a name comes or goes; of each file in a folder of at most
    `MOST_IN_FOLDER` entries all that there is.
    """
    return islice(iter_tree_level(folder, TREE_DEPTH), MOST_IN_TREE)


def iter_tree_level(folder: Path, depth: int) -> Iterator[FileFacts]:
    """The folder, its files, then its folders."""
    try:
        yield read_file_facts(folder)
        with os.scandir(folder) as entries:
            found = list(islice(entries, MOST_IN_FOLDER + 1))
    except OSError:
        return
    folders = []
    for entry in sorted(found, key=lambda each: each.name):
        try:
            if entry.is_dir():
                folders.append(Path(entry.path))
            elif len(found) <= MOST_IN_FOLDER:
                yield read_file_facts(Path(entry.path))
        except OSError:
            continue  # a link to nothing
    for path in folders if depth else ():
        yield from iter_tree_level(path, depth - 1)
