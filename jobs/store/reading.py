"""Reading what other machines replace: over NFS a file that is replaced while it is read is ESTALE; it is read anew."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

STALE_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each further try. A server that restarts may answer so for longer, and then the caller hears of it."""


# Why: docs/decisions.md, D142
def retry_stale(read: Callable[[], Value]) -> Value:
    """What `read` returns. It must open what it reads, by name, each time that it is called."""
    for pause in STALE_PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return read()


def read_file(path: Path) -> bytes:
    """The content of a file that may be replaced meanwhile, on this machine or another. Raises OSError."""
    return retry_stale(path.read_bytes)
