"""The time, where it decides something: passed in, so that a test can jump ahead instead of waiting."""

import time


class Clock:
    """The clock of this machine."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds from an unknown moment; never steps back."""
        return time.monotonic()

    def boottime(self) -> float:
        """Like `monotonic`, and goes on while the machine is suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = Clock()
