"""Who may run a job on a cluster: one process at a time, also while a node that was given up still works.

Slurm starts a job again when a node falls silent, but what runs on that node runs on, and may write for hours. So each
attempt claims its run (jobs/claims/claims.py). The newest incarnation of a job takes the run over at once and waits
until those before it can write no more; a stranger first waits whether the present holder shows signs of life.
"""

import errno
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from jobs.claims.claims import (
    Claim,
    ClaimOwner,
    create_claim,
    list_claims,
    measure_claim_age,
    read_claim,
    remove_old_claims,
)
from jobs.claims.heartbeat import Heartbeat
from jobs.errors import AttemptSetupError
from jobs.processes import kill_attempt_processes, list_attempt_pids
from jobs.signals import StopForwarder
from jobs.store.flock import acquire_lock, is_held
from jobs.store.paths import RunPaths

TAKEOVER_VARIABLE = "SWEEP_TAKEOVER_SECONDS"
TAKEOVER_SECONDS = 75.0
HEARTBEATS_PER_TAKEOVER = 15
"""Heartbeats, each with a look for a newer claim, in the time of silence that ends a claim."""


@dataclass(frozen=True, slots=True)
class ClaimTimeouts:
    """All in seconds."""

    takeover: float
    """A holder that has been silent for so long may be taken over from: a minute for which NFS may show an old state,
    and three heartbeats."""

    @property
    def heartbeat_s(self) -> float:
        return self.takeover / HEARTBEATS_PER_TAKEOVER

    @property
    def kill(self) -> float:
        """A fenced incarnation on the same machine is killed by its successor if it has not ended by itself."""
        return 3 * self.heartbeat_s

    @classmethod
    def from_environment(cls) -> "ClaimTimeouts":
        """`SWEEP_TAKEOVER_SECONDS` changes them. Raises ValueError if it is not a number above 0."""
        given = os.environ.get(TAKEOVER_VARIABLE, "")
        if not given:
            return cls(TAKEOVER_SECONDS)
        try:
            seconds = float(given)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise ValueError(f"{TAKEOVER_VARIABLE}: {given!r} is not a number of seconds above 0")
        return cls(seconds)


class PreviousClaimState(Enum):
    """What is known of an older claim."""

    ALIVE = auto()
    QUIET = auto()
    """Neither a sign of life nor silent for long enough."""
    SILENT = auto()
    OVER = auto()
    """It let go, or nothing of it is left."""


@dataclass(slots=True)
class PreviousClaim:
    """Looks at one older claim again and again. Silence is measured on our own clock from what is seen to change; the
    file's age is believed only together with some of it, as clocks may differ."""

    run: RunPaths
    claim: Claim
    times: ClaimTimeouts
    since: float = 0.0
    age_at_first: float = 0.0

    def __post_init__(self) -> None:
        self.since = time.monotonic()
        self.age_at_first = measure_claim_age(self.claim)

    def read_state(self) -> PreviousClaimState:
        seen = read_claim(self.claim.path)
        if seen is None or seen.released or self._is_over():
            return PreviousClaimState.OVER
        if seen.heartbeat_at != self.claim.heartbeat_at:
            self.claim, self.since, self.age_at_first = seen, time.monotonic(), 0.0
            return PreviousClaimState.ALIVE
        unchanged = time.monotonic() - self.since
        if unchanged >= self.times.takeover or (
            unchanged >= 2 * self.times.heartbeat_s and unchanged + self.age_at_first >= self.times.takeover
        ):
            return PreviousClaimState.SILENT
        return PreviousClaimState.QUIET

    def _is_over(self) -> bool:
        """By its exit record, or, on this machine, by the absence of its processes and of their lock."""
        holder = self.claim.owner
        if holder.attempt and self.run.locate_attempt(holder.attempt).exit.exists():
            return not holder.on_this_machine or not self._runs_here()
        return holder.process_is_gone and not self._runs_here()

    def _runs_here(self) -> bool:
        """Whether processes of its stage are on this machine."""
        attempt = self.claim.owner.attempt
        return bool(attempt and list_attempt_pids(self.run.locate_attempt(attempt).root)) or _lock_is_held(self.run)

    def kill(self) -> None:
        """Ends what is left of its stage, if that is on this machine."""
        if self.claim.owner.on_this_machine and self.claim.owner.attempt:
            kill_attempt_processes(self.run.locate_attempt(self.claim.owner.attempt).root)


@dataclass(frozen=True, slots=True)
class AcquiredClaim:
    """A run that is ours."""

    heartbeat: Heartbeat
    """At work."""
    from_silent: bool
    """Some older holder did not let go but fell silent: of a machine that cannot be reached, its lock may remain."""


def acquire_run_claim(
    run: RunPaths, holder: ClaimOwner, times: ClaimTimeouts, stopped: Callable[[], bool]
) -> AcquiredClaim | None:
    """Claims the run and returns once nobody older can write.

    None if the run is another's, or if it was `stopped` while it waited.
    """
    while not stopped():
        older = list_claims(run.claims)
        watches = [PreviousClaim(run, rival, times) for rival in older if not rival.released]
        if any(_is_newer_incarnation(watch.claim.owner, holder) for watch in watches):
            return None
        strangers = [watch for watch in watches if not _same_job(watch.claim.owner, holder)]
        if not _all_ended(strangers, times, stopped):
            return None
        mine = create_claim(run.claims, holder, after=older[-1] if older else None)
        if mine is not None:
            return _wait_for_previous(watches, Heartbeat(mine, times.heartbeat_s, times.takeover), times, stopped)
    return None


def _same_job(one: ClaimOwner, other: ClaimOwner) -> bool:
    """Incarnations of one job: the cluster itself has ended the earlier before it began the later."""
    same = bool(one.job_id) and (one.job_id, one.batch) == (other.job_id, other.batch)
    return same and one.restart != other.restart


def _is_newer_incarnation(rival: ClaimOwner, holder: ClaimOwner) -> bool:
    return _same_job(rival, holder) and rival.restart > holder.restart


def _all_ended(strangers: Sequence[PreviousClaim], times: ClaimTimeouts, stopped: Callable[[], bool]) -> bool:
    """Whether all let go or fell silent; false as soon as one shows that it lives."""
    while not stopped():
        seen = [watch.read_state() for watch in strangers]
        if PreviousClaimState.ALIVE in seen:
            return False
        if PreviousClaimState.QUIET not in seen:
            return True
        time.sleep(min(1.0, times.heartbeat_s / 2))
    return False


def _wait_for_previous(
    watches: Sequence[PreviousClaim], guard: Heartbeat, times: ClaimTimeouts, stopped: Callable[[], bool]
) -> AcquiredClaim | None:
    """Until those before can write no more. They know that they are fenced one heartbeat from now."""
    guard.start()
    began = time.monotonic()
    while not (stopped() or guard.lost):
        seen = [watch.read_state() for watch in watches]
        if PreviousClaimState.ALIVE not in seen and PreviousClaimState.QUIET not in seen:
            for watch in watches:
                watch.kill()  # of silent ones: their supervisor was killed and their stage was not, for instance
            remove_old_claims(guard.claim.path.parent, guard.claim)
            return AcquiredClaim(guard, from_silent=PreviousClaimState.SILENT in seen)
        if time.monotonic() - began >= times.kill:
            for watch in watches:
                watch.kill()
        time.sleep(min(0.5, times.heartbeat_s / 2))
    guard.release()
    return None


def _lock_is_held(run: RunPaths) -> bool:
    try:
        return is_held(run.lock)
    except OSError:  # the file system gives no locks
        return False


# The right to run a job: a lock on one machine, on a cluster a claim besides.

FENCE_VARIABLE = "SWEEP_FENCE"
"""The claim under which a stage runs; a stage that publishes anything looks first whether a newer one is there."""
LOCK_PATIENCE_SECONDS = 1.0


@dataclass(slots=True)
class Ownership:
    """Held until the process ends, or until it is fenced."""

    lock: int | None
    """Descriptor of the run's lock, which the stage inherits; None where the file system gives none."""
    heartbeat: Heartbeat | None = None

    @property
    def lost(self) -> bool:
        return self.heartbeat is not None and self.heartbeat.lost

    def check(self) -> None:
        """To be called before what others see is written. Raises ClaimLostError if it may not be."""
        if self.heartbeat is not None:
            self.heartbeat.check()

    def build_environment(self) -> dict[str, str]:
        """What the stage has to know."""
        return {FENCE_VARIABLE: str(self.heartbeat.claim.path)} if self.heartbeat else {}

    def release(self) -> None:
        """After the last write."""
        if self.heartbeat is not None:
            self.heartbeat.release()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def acquire_local_ownership(run: RunPaths) -> Ownership | None:
    """By the lock alone; None if another process has it."""
    lock = acquire_lock(run.lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    return None if lock is None else Ownership(lock)


def acquire_cluster_ownership(run: RunPaths, holder: ClaimOwner, stop: StopForwarder) -> Ownership | None:
    """By a claim, and by the lock as far as that goes; None if another attempt lives, or at a stop before the end of
    the wait for an older one."""
    try:
        times = ClaimTimeouts.from_environment()
    except ValueError as error:
        raise AttemptSetupError(str(error)) from None
    taken = acquire_run_claim(run, holder, times, lambda: bool(stop.received))
    if taken is None:
        return None
    lock, held_by_another = _try_lock(run)
    if held_by_another and not taken.from_silent:  # an attempt of this machine's local backend, which makes no claim
        taken.heartbeat.release()
        return None
    return Ownership(lock, taken.heartbeat)


def _try_lock(run: RunPaths) -> tuple[int | None, bool]:
    """(descriptor, whether somebody else has it). A claim decides; the lock tells this machine's processes."""
    try:
        lock = acquire_lock(run.lock, patience_seconds=LOCK_PATIENCE_SECONDS)
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            return None, False
        raise
    return lock, lock is None
