"""Writing files so that they are whole or absent, with an error of its own for a refused write."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.errors import MountError, StageError, StorageError, find_mount_errno, find_storage_errno

FENCE_VARIABLE = "SWEEP_FENCE"
"""Path of the numbered claim that a process runs under (docs/formats.md); unset where there is but one machine."""


class FencedError(StageError):
    """A newer incarnation of the job runs elsewhere: nothing may be published any more."""

    failure_class = "killed"


def check_fence() -> None:
    """To be called right before a file or folder takes its final name.

    FencedError if the claim of this process is not the newest: the next one is there, or its own was tidied away.
    """
    given = os.environ.get(FENCE_VARIABLE, "")
    if not given:
        return
    own = Path(given)
    newer = own.with_name(f"{int(own.stem) + 1:06d}.json")
    with suppress(FileNotFoundError):  # opening the folder makes a network file system ask its server
        os.close(os.open(own.parent, os.O_RDONLY | os.O_DIRECTORY))
    if newer.exists() or not own.exists():
        raise FencedError(f"fenced: a newer incarnation took over ({own.parent})")


@contextmanager
def convert_storage_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, an exhausted quota or a read-only file system into StorageError, and a disk or mount that has
    failed into MountError."""
    from safetensors import SafetensorError  # here: what counts samples on a login node starts without it

    try:
        yield
    except (OSError, SafetensorError) as error:
        if (number := find_storage_errno(error)) is not None:
            raise StorageError(f"{path}: cannot write: {os.strerror(number)}") from error
        if (number := find_mount_errno(error)) is not None:
            raise MountError(f"{path}: cannot write: {os.strerror(number)}") from error
        raise


def locate_unfinished(path: Path) -> Path:
    """A name beside `path` that no other process writes to: ranks on two nodes may have the same number."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


# Why: docs/decisions.md, D3
@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; at the end of the block it is flushed to disk and takes `path`'s place.

    If the block raises, `path` is as before and the unfinished file is gone. FencedError: see `check_fence`.
    """
    unfinished = locate_unfinished(path)
    with convert_storage_errors(path):
        try:
            make_folder(path.parent)
            yield unfinished
            flush_to_disk(unfinished)
            check_fence()
            unfinished.replace(path)
            flush_folder(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


def read_regular(path: Path) -> bytes:
    """A file's content. Raises OSError at once for what is no file: a read of a named pipe of that name never ends."""
    # on a file O_NONBLOCK has no effect
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def write_json(path: Path, content: object) -> None:
    """Whole or absent: `content` as JSON at `path`; NaN and Inf are refused (ValueError), as they are not JSON."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with replace_atomically(path) as unfinished:
        unfinished.write_text(text)


def create_json(path: Path, content: object) -> None:
    """Like `write_json`, for a file that one of several processes creates: FileExistsError if it is there already."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    unfinished = locate_unfinished(path)
    with convert_storage_errors(path):
        try:
            make_folder(path.parent)
            unfinished.write_text(text)
            flush_to_disk(unfinished)
            check_fence()
            os.link(unfinished, path)  # unlike a rename it fails where there is one
            flush_folder(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def keep_usual_mode(path: Path) -> Iterator[None]:
    """In the block, a library writes the file `path`, which then has the bits that the umask leaves to a new file.

    safetensors makes files for their owner alone, and the person who goes on with a shared run could not read them.
    """
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


UNFLUSHABLE = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES})
"""What says that a folder cannot be flushed here: by its file system, or by a user who may not list it."""


# Why: docs/decisions.md, D164
def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can promise that."""
    try:
        flush_to_disk(folder)
    except OSError as error:
        if error.errno not in UNFLUSHABLE:
            raise


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing; their names are on the disk when it returns."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        flush_folder(each.parent)


def flush_to_disk(path: Path) -> None:
    """Waits until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
