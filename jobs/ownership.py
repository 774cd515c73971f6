"""The right to run a job: a lock on one machine, on a cluster a claim besides."""

import errno
import os
from dataclasses import dataclass

from jobs.claims.claims import Holder
from jobs.claims.heartbeat import Guard
from jobs.claims.takeover import Times, take
from jobs.errors import BrokenAttemptError
from jobs.signals import StopForwarder
from jobs.store.flock import acquire
from jobs.store.paths import RunPaths

FENCE_VARIABLE = "SWEEP_FENCE"
"""The claim under which a stage runs; a stage that publishes anything looks first whether a newer one is there."""
LOCK_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class Ownership:
    """Held until the process ends, or until it is fenced."""

    lock: int | None
    """Descriptor of the run's lock, which the stage inherits; None where the file system gives none."""
    guard: Guard | None = None

    @property
    def lost(self) -> bool:
        return self.guard is not None and self.guard.lost

    def check(self) -> None:
        """To be called before what others see is written. Raises FencedError if it may not be."""
        if self.guard is not None:
            self.guard.check()

    def environment(self) -> dict[str, str]:
        """What the stage has to know."""
        return {FENCE_VARIABLE: str(self.guard.claim.path)} if self.guard else {}

    def let_go(self) -> None:
        """After the last write."""
        if self.guard is not None:
            self.guard.let_go()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def own_on_this_machine(run: RunPaths) -> Ownership | None:
    """By the lock alone; None if another process has it."""
    lock = acquire(run.lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    return None if lock is None else Ownership(lock)


def own_on_a_cluster(run: RunPaths, holder: Holder, stop: StopForwarder) -> Ownership | None:
    """By a claim, and by the lock as far as that goes; None if another attempt lives, or at a stop before the end of
    the wait for an older one."""
    try:
        times = Times.from_environment()
    except ValueError as error:
        raise BrokenAttemptError(str(error)) from None
    taken = take(run, holder, times, lambda: bool(stop.received))
    if taken is None:
        return None
    lock, held_by_another = _try_lock(run)
    if held_by_another and not taken.from_silent:  # an attempt of this machine's local backend, which makes no claim
        taken.guard.let_go()
        return None
    return Ownership(lock, taken.guard)


def _try_lock(run: RunPaths) -> tuple[int | None, bool]:
    """(descriptor, whether somebody else has it). A claim decides; the lock tells this machine's processes."""
    try:
        lock = acquire(run.lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            return None, False
        raise
    return lock, lock is None
