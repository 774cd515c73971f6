"""The checkpoints of an open_lm run, by the order in which it writes them: epoch_N.pt, optimizer_N.pt, stats_N.pt."""

import re
from pathlib import Path
from typing import Any

from stages.errors import ConfigError
from stages.openlm_files import read_pickle

PARTS = ("epoch", "optimizer", "stats")


def part(folder: Path, name: str, number: int) -> Path:
    """One of the files of checkpoint `number`."""
    return folder / f"{name}_{number}.pt"


def stats_of(folder: Path, number: int) -> dict[str, Any] | None:
    """What checkpoint `number` says of itself; None unless all of its files are there and the last one is whole."""
    if not all(part(folder, name, number).is_file() for name in PARTS):
        return None
    try:
        return read_pickle(part(folder, "stats", number))
    except ConfigError:
        return None


def numbers(folder: Path) -> list[int]:
    """Of all checkpoints of which there is a file, whole or not, ascending."""
    found = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(?:epoch|optimizer|stats)_(\d+)\.pt", path.name))
    }
    return sorted(found)


def drop_torn(folder: Path) -> int:
    """Removes checkpoints that were not written to their end, which `--resume latest` would take; the newest's number
    that is left, 0 for none."""
    newest = 0
    for number in numbers(folder):
        if stats_of(folder, number) is None:
            remove(folder, number)
        else:
            newest = number
    return newest


def remove(folder: Path, number: int) -> None:
    """A checkpoint's files: the one that says that they are whole goes first."""
    for name in reversed(PARTS):
        part(folder, name, number).unlink(missing_ok=True)
