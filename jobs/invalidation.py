"""Takes back a result whose checkpoint a child found damaged."""

import os

from jobs.store.flock import acquire
from jobs.store.paths import RunPaths


def set_result_aside(run: RunPaths) -> bool:
    """Moves result.json aside under the run's lock, so that no live attempt loses a result; False if one lives."""
    lock = acquire(run.lock, patience_seconds=1.0)
    if lock is None:
        return False
    try:
        run.result.replace(run.damaged_result)
    finally:
        os.close(lock)
    return True
