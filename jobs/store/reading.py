"""Reading what other machines replace: over NFS a file that is replaced while it is read is ESTALE; it is read anew."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from jobs.clock import SYSTEM_CLOCK, Clock

Value = TypeVar("Value")

STALE_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each further try. A server that restarts may answer so for longer, and then the caller hears of it."""


# Why: docs/decisions.md, D132
def read_anew(read: Callable[[], Value], clock: Clock = SYSTEM_CLOCK) -> Value:
    """What `read` returns. It must open what it reads, by name, each time that it is called."""
    for pause in STALE_PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        clock.sleep(pause)
    return read()


def read_file(path: Path | str) -> bytes:
    """The content of a file that may be replaced meanwhile, on this machine or another. Raises OSError."""
    return read_file_and_status(path)[0]


def read_file_and_status(path: Path | str) -> tuple[bytes, os.stat_result]:
    """The same, and the status of the very file that was read."""
    return read_anew(partial(_read_once, path))


def _read_once(path: Path | str) -> tuple[bytes, os.stat_result]:
    with open(path, "rb", 0) as file:  # noqa: PTH123 - thousands of them, without a buffer
        return file.read(), os.fstat(file.fileno())
