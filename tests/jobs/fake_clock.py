"""A clock that jumps instead of sleeping."""

from dataclasses import dataclass, field

from jobs.clock import Clock


@dataclass
class FakeClock(Clock):
    """Starts at `time` (Unix seconds, and the monotonic ones too). `slept`: every sleep so far, in seconds."""

    time: float = 1_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def boottime(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
