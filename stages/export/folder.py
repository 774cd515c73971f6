"""A folder that appears whole or not at all, and takes no other's place than that of an earlier one of its kind.

Torch-free: the control plane asks here too.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import ConfigError
from stages.files import flush_to_disk, storage_errors, write_json

MARKER = "export.json"
"""What an exported folder says of itself; its presence allows the folder to be replaced."""
FORMAT = 1


def read_marker(folder: Path) -> Mapping[str, Any] | None:
    """export.json of a folder; None where there is none that this version wrote."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("files"), list)
    return content if known else None


def check_place(folder: Path) -> None:
    """ConfigError if `folder` is there and is not an export, or has got files that the export did not write."""
    if folder.is_symlink():
        raise ConfigError(f"{folder}: is a link; give the folder that is meant")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give a folder to make")
    marker = read_marker(folder)
    if marker is None:
        if any(folder.iterdir()):
            raise ConfigError(f"{folder}: is there and was not written by an export; give a new folder")
        return
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if added := sorted(there - {MARKER, *map(str, marker["files"])}):
        raise ConfigError(f"{folder}: {added[0]} was added to this export; move it away, or give a new folder")


@contextmanager
def new_folder(folder: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """Gives a hidden folder beside `folder` to fill; at the end of the block it gets export.json and that name.

    `about` goes into export.json. ConfigError as `check_place`; StorageError if the disk is full. If the block raises,
    everything is as before.
    """
    check_place(folder)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with storage_errors(folder):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            files = sorted(path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file())
            write_json(unfinished / MARKER, {"format": FORMAT, **about, "files": files})
            flush_to_disk(unfinished)
            take_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def take_place(unfinished: Path, folder: Path) -> None:
    """Renames a finished folder into place; an earlier export goes only once the new one can be seen."""
    check_place(folder)  # again: an export takes minutes
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    flush_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
