"""Advisory locks that live as long as a process: the kernel drops them at its end, whatever the end was.

`flock` belongs to the open file, so a child that inherits the descriptor keeps the lock after its parent was killed.
"""

import fcntl
import os
import time
from pathlib import Path


# Why: docs/decisions.md, D4
def acquire_lock(path: Path, *, patience_seconds: float = 0.0) -> int | None:
    """The descriptor that holds the exclusive lock of `path`, or None if another process has it.

    `patience_seconds` outlasts `is_held` probes, which take the shared lock for microseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.01)
        else:
            return descriptor


def is_held(path: Path) -> bool:
    """Whether some process holds the exclusive lock of `path`. Needs no write access."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
