"""The heartbeat of a claim: keeps it alive while its owner works, and notices when a newer claim exists."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from jobs.claims.claims import Claim, measure_claim_age
from jobs.clock import SYSTEM_CLOCK, Clock


# Why: docs/decisions.md, D168
@dataclass(slots=True)
class SilenceWatch:
    """How long another's claim has shown no heartbeat: seconds of our own clock, from changes that we see ourselves.

    What the file's age adds is believed only after `least_seconds` of such silence: where clients stamp files, that age
    is a difference of two machines' clocks.
    """

    claim: Claim
    limit_seconds: float
    """A longer silence means that the owner is gone."""
    least_seconds: float
    clock: Clock = SYSTEM_CLOCK
    _since: float = 0.0
    _age_at_first: float = 0.0

    def __post_init__(self) -> None:
        self._since = self.clock.monotonic()
        self._age_at_first = measure_claim_age(self.claim)

    def observe(self, seen: Claim) -> bool:
        """Takes in what the claim's file shows now; whether it has changed since the last look."""
        if (seen.number, seen.heartbeat_at) == (self.claim.number, self.claim.heartbeat_at):
            return False
        is_next = seen.number != self.claim.number
        self.claim, self._since = seen, self.clock.monotonic()
        self._age_at_first = measure_claim_age(seen) if is_next else 0.0
        return True

    @property
    def is_over(self) -> bool:
        """Whether the silence has lasted long enough."""
        unchanged = self.clock.monotonic() - self._since
        return unchanged >= self.limit_seconds or (
            unchanged >= self.least_seconds and unchanged + self._age_at_first >= self.limit_seconds
        )


class ClaimLostError(Exception):
    """A newer incarnation of the job took over. Nothing may be written any more."""


class Heartbeat:
    """Renews a claim in a thread of its own. After `start`, `lost` says whether the claim still holds.

    A claim is lost if a newer one exists. It is also lost if the store was unreachable for so long that another attempt
    may have taken over: a node that is cut off stops by itself.
    """

    def __init__(
        self, claim: Claim, beat_seconds: float, takeover_seconds: float, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.claim = claim
        self._clock = clock
        self._beat_seconds = beat_seconds
        self._unreachable_seconds = takeover_seconds - 3 * beat_seconds
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._on_loss: Callable[[], None] | None = None
        self._mutex = threading.Lock()
        self._good_at = self._clock.boottime()
        self._thread = threading.Thread(target=self._watch, name="claim", daemon=True)

    @property
    def lost(self) -> bool:
        return self._lost.is_set()

    def start(self) -> None:
        self._thread.start()

    def register_loss_callback(self, act: Callable[[], None]) -> None:
        """`act` is called once, in the heartbeat's thread, when the claim is lost; at once if it is lost already."""
        with self._mutex:
            self._on_loss = act
            lost = self.lost
        if lost:
            act()

    def check(self) -> None:
        """Raises ClaimLostError if a newer claim exists now, OSError if the store is unreachable."""
        if self.lost or not self.claim.is_newest():
            self._lose()
            raise ClaimLostError

    def release(self) -> None:
        """Ends the heartbeat and marks the claim as released. Raises OSError if the store refuses."""
        self._ended.set()
        self._thread.join(timeout=self._beat_seconds)
        self.claim.release()

    def _watch(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            if not self._renew_claim():
                self._lose()
                return

    def _renew_claim(self) -> bool:
        try:
            # Never renew a claim that is not the newest: its successor waits until it is silent.
            good = self.claim.is_newest() and self.claim.send_heartbeat()
        except OSError:
            return self._clock.boottime() - self._good_at < self._unreachable_seconds
        if good:
            self._good_at = self._clock.boottime()
        return good

    def _lose(self) -> None:
        with self._mutex:
            first = not self.lost
            self._lost.set()
            act = self._on_loss
        if first and act is not None:
            act()
