"""Writing files so that they are whole or absent, with a refused write told apart from other errors."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stages.errors import StorageError, storage_errno


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns a full disk, an exhausted quota or a read-only file system into StorageError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if (number := storage_errno(error)) is not None:
            raise StorageError(f"{path}: cannot write: {os.strerror(number)}") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; at the end of the block it is flushed to disk and takes `path`'s place.

    If the block raises, `path` is as before and the unfinished file is gone.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            flush_to_disk(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Whole or absent: `content` as JSON at `path`; NaN and Inf are refused (ValueError), as they are not JSON."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with replacing(path) as unfinished:
        unfinished.write_text(text)


def flush_to_disk(path: Path) -> None:
    """Waits until a file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
