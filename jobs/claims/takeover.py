"""Who may run a job on a cluster: one process at a time, also while a node that was given up still works.

Slurm restarts a job when a node does not answer, but the processes on that node live on and may write for hours. So
each attempt claims its run (jobs/claims/claims.py). The newest incarnation of a job takes the run over at once, and
waits until the earlier ones can write no more. An attempt of another job first waits for heartbeats of the owner.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from jobs.claims.claims import (
    Claim,
    ClaimOwner,
    create_claim,
    list_claims,
    read_claim,
    remove_old_claims,
)
from jobs.claims.heartbeat import Heartbeat, SilenceWatch
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import AttemptSetupError
from jobs.processes import kill_attempt_processes, list_attempt_pids
from jobs.signals import StopForwarder
from jobs.store.flock import acquire_lock, is_held
from jobs.store.paths import RunPaths

TAKEOVER_VARIABLE = "SWEEP_TAKEOVER_SECONDS"
TAKEOVER_SECONDS = 75.0
HEARTBEATS_PER_TAKEOVER = 15
"""So many heartbeats fit into `ClaimTimeouts.takeover`. Each checks for a newer claim."""


@dataclass(frozen=True, slots=True)
class ClaimTimeouts:
    """When a claim counts as silent, in seconds."""

    takeover: float
    """After so long without a heartbeat, another may take over: a minute for which NFS may show an old state, and three
    heartbeats."""

    @property
    def heartbeat_s(self) -> float:
        return self.takeover / HEARTBEATS_PER_TAKEOVER

    @property
    def kill(self) -> float:
        """After so long, a successor kills a fenced incarnation on the same machine that has not ended by itself."""
        return 3 * self.heartbeat_s

    @classmethod
    def from_environment(cls) -> "ClaimTimeouts":
        """Raises ValueError if SWEEP_TAKEOVER_SECONDS is set and is not a number above 0."""
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
    """No heartbeat, and not silent for long enough."""
    SILENT = auto()
    OVER = auto()
    """It was released, or none of its processes is left."""


@dataclass(slots=True)
class PreviousClaim:
    """An older claim, read repeatedly."""

    run: RunPaths
    claim: Claim
    times: ClaimTimeouts
    clock: Clock = SYSTEM_CLOCK
    silence: SilenceWatch = field(init=False)

    def __post_init__(self) -> None:
        self.silence = SilenceWatch(self.claim, self.times.takeover, 2 * self.times.heartbeat_s, self.clock)

    def read_state(self) -> PreviousClaimState:
        seen = read_claim(self.claim.path)
        if seen is None or seen.released or self._is_over():
            return PreviousClaimState.OVER
        if self.silence.observe(seen):
            self.claim = seen
            return PreviousClaimState.ALIVE
        return PreviousClaimState.SILENT if self.silence.is_over else PreviousClaimState.QUIET

    def _is_over(self) -> bool:
        """Whether its exit record exists, or, on this machine, neither its processes nor their lock."""
        holder = self.claim.owner
        if holder.attempt and self.run.locate_attempt(holder.attempt).exit.exists():
            return not holder.on_this_machine or not self._runs_here()
        return holder.process_is_gone and not self._runs_here()

    def _runs_here(self) -> bool:
        """Whether processes of its stage are on this machine."""
        attempt = self.claim.owner.attempt
        return bool(attempt and list_attempt_pids(self.run.locate_attempt(attempt).root)) or _lock_is_held(self.run)

    def kill(self) -> None:
        """Kills what is left of its stage, if that is on this machine."""
        if self.claim.owner.on_this_machine and self.claim.owner.attempt:
            kill_attempt_processes(self.run.locate_attempt(self.claim.owner.attempt).root)


@dataclass(frozen=True, slots=True)
class AcquiredClaim:
    """The claim by which a run is ours."""

    heartbeat: Heartbeat
    """Already running."""
    from_silent: bool
    """An older owner fell silent without a release. If its machine is unreachable, its lock may remain."""


def acquire_run_claim(
    run: RunPaths,
    holder: ClaimOwner,
    times: ClaimTimeouts,
    stopped: Callable[[], bool],
    clock: Clock = SYSTEM_CLOCK,
) -> AcquiredClaim | None:
    """Claims the run and returns once no older attempt can write.

    None if the run belongs to another attempt, or if `stopped` while it waited.
    """
    while not stopped():
        older = list_claims(run.claims)
        watches = [PreviousClaim(run, rival, times, clock) for rival in older if not rival.released]
        if any(_is_newer_incarnation(watch.claim.owner, holder) for watch in watches):
            return None
        strangers = [watch for watch in watches if not _same_job(watch.claim.owner, holder)]
        if not _all_ended(strangers, times, stopped, clock):
            return None
        mine = create_claim(run.claims, holder, after=older[-1] if older else None)
        if mine is not None:
            heartbeat = Heartbeat(mine, times.heartbeat_s, times.takeover, clock=clock)
            return _wait_for_previous(watches, heartbeat, times, stopped, clock)
    return None


def _same_job(one: ClaimOwner, other: ClaimOwner) -> bool:
    """Whether both are incarnations of one job: Slurm itself has ended the earlier one before it began the later."""
    same = bool(one.job_id) and (one.job_id, one.batch) == (other.job_id, other.batch)
    return same and one.restart != other.restart


def _is_newer_incarnation(rival: ClaimOwner, holder: ClaimOwner) -> bool:
    return _same_job(rival, holder) and rival.restart > holder.restart


def _all_ended(
    strangers: Sequence[PreviousClaim], times: ClaimTimeouts, stopped: Callable[[], bool], clock: Clock
) -> bool:
    """Whether all were released or fell silent; false as soon as one shows a heartbeat."""
    while not stopped():
        seen = [watch.read_state() for watch in strangers]
        if PreviousClaimState.ALIVE in seen:
            return False
        if PreviousClaimState.QUIET not in seen:
            return True
        clock.sleep(min(1.0, times.heartbeat_s / 2))
    return False


def _wait_for_previous(
    watches: Sequence[PreviousClaim],
    guard: Heartbeat,
    times: ClaimTimeouts,
    stopped: Callable[[], bool],
    clock: Clock,
) -> AcquiredClaim | None:
    """Waits until the earlier ones can write no more. They notice that they are fenced within one heartbeat."""
    guard.start()
    began = clock.monotonic()
    while not (stopped() or guard.lost):
        seen = [watch.read_state() for watch in watches]
        if PreviousClaimState.ALIVE not in seen and PreviousClaimState.QUIET not in seen:
            for watch in watches:
                watch.kill()  # of a silent one, the supervisor may have been killed and the stage not
            remove_old_claims(guard.claim.path.parent, guard.claim)
            return AcquiredClaim(guard, from_silent=PreviousClaimState.SILENT in seen)
        if clock.monotonic() - began >= times.kill:
            for watch in watches:
                watch.kill()
        clock.sleep(min(0.5, times.heartbeat_s / 2))
    guard.release()
    return None


def _lock_is_held(run: RunPaths) -> bool:
    try:
        return is_held(run.lock)
    except OSError:  # the file system gives no locks
        return False


# The right to run a job: a lock on one machine, and a claim too on a cluster.

FENCE_VARIABLE = "SWEEP_FENCE"
"""Environment variable with the claim under which a stage runs. Before it publishes, it checks for a newer claim."""
LOCK_WAIT_SECONDS = 1.0


@dataclass(slots=True)
class Ownership:
    """The right to write into a run, until the process ends or is fenced."""

    lock: int | None
    """Descriptor of the run's lock, which the stage inherits; None if the file system has no locks."""
    heartbeat: Heartbeat | None = None

    @property
    def lost(self) -> bool:
        return self.heartbeat is not None and self.heartbeat.lost

    def check(self) -> None:
        """Call it before you write what others see. Raises ClaimLostError if that is no longer allowed."""
        if self.heartbeat is not None:
            self.heartbeat.check()

    def build_environment(self) -> dict[str, str]:
        """The stage's variables about the claim."""
        return {FENCE_VARIABLE: str(self.heartbeat.claim.path)} if self.heartbeat else {}

    def release(self) -> None:
        """Call it after the last write."""
        if self.heartbeat is not None:
            self.heartbeat.release()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def acquire_local_ownership(run: RunPaths, clock: Clock = SYSTEM_CLOCK) -> Ownership | None:
    """Takes the lock; None if another process has it."""
    lock = acquire_lock(run.lock, wait_seconds=LOCK_WAIT_SECONDS, clock=clock)
    return None if lock is None else Ownership(lock)


def acquire_cluster_ownership(
    run: RunPaths, holder: ClaimOwner, stop: StopForwarder, clock: Clock = SYSTEM_CLOCK
) -> Ownership | None:
    """Takes a claim, and the lock if the file system has locks.

    None if another attempt lives, or if a stop was asked for while it waited for an older one.
    """
    try:
        times = ClaimTimeouts.from_environment()
    except ValueError as error:
        raise AttemptSetupError(str(error)) from None
    taken = acquire_run_claim(run, holder, times, lambda: bool(stop.received), clock)
    if taken is None:
        return None
    lock, held_by_another = _try_lock(run, clock)
    if held_by_another and not taken.from_silent:  # an attempt of this machine's local backend, which makes no claim
        taken.heartbeat.release()
        return None
    return Ownership(lock, taken.heartbeat)


def _try_lock(run: RunPaths, clock: Clock) -> tuple[int | None, bool]:
    """(descriptor, whether another process has it)."""
    try:
        lock = acquire_lock(run.lock, wait_seconds=LOCK_WAIT_SECONDS, clock=clock)
    except OSError as error:
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
            return None, False
        raise
    return lock, lock is None
