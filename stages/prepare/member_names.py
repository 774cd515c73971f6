"""Members of a tar that look like an attack or a mistake. They are harmless here: no name is ever a path, nothing is
unpacked, and no member is run.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CODE = {
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".ckpt",
    ".npy",
    ".joblib",
    ".pyd",
    ".so",
    ".dll",
    ".py",
    ".pyc",
    ".exe",
    ".sh",
}
"""What other programs would run, or unpickle."""


def odd_members(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, name) of the odd members of a whole tar; nothing of one that tarfile cannot read."""
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if kind := odd_kind(entry):
                    yield kind, entry.name
    except (tarfile.TarError, OSError, ValueError):
        return


def odd_kind(entry: tarfile.TarInfo) -> str:
    """Why a member is odd; empty if it is not."""
    name = PurePosixPath(entry.name)
    if entry.issym() or entry.islnk():
        return "link"
    if not (entry.isfile() or entry.isdir()):
        return "device or pipe"
    if name.is_absolute() or ".." in name.parts:
        return "name that climbs out"
    return "pickle or program" if entry.isfile() and name.suffix.lower() in CODE else ""
