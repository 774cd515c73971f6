"""Advisory locks that live as long as a process: the kernel releases them when it ends, in whatever way.

An flock belongs to the open file: a child that inherits the descriptor keeps the lock after its parent was killed.
"""

import fcntl
import os
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.paths import make_folder
from jobs.store.reading import name_file, open_regular


# Why: docs/decisions.md, D4
def acquire_lock(path: Path, *, wait_seconds: float = 0.0, clock: Clock = SYSTEM_CLOCK) -> int | None:
    """The descriptor that holds the exclusive lock of `path`, or None if another process has it.

    Give some `wait_seconds` if `is_held` may be called meanwhile: it takes the shared lock for microseconds.
    """
    make_folder(path.parent)
    descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    deadline = clock.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.monotonic() >= deadline:
                os.close(descriptor)
                return None
            clock.sleep(0.01)
        except OSError as error:
            os.close(descriptor)
            raise name_file(error, path) from None
        else:
            return descriptor


def is_held(path: Path) -> bool:
    """Whether a process holds the exclusive lock of `path`. Needs no write access."""
    try:
        descriptor = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise name_file(error, path) from None
    finally:
        os.close(descriptor)
    return False
