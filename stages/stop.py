"""Being asked to stop: signals only set a flag, which the loop reads between steps."""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
STOPPED = 75
"""Exit code of a stage that saved and stopped. It must agree with `jobs.exit_codes.ExitCode.SAVED`, which stages cannot
import; a test compares the two."""


class StopFlag:
    """`requested` turns true at the first SIGTERM, SIGINT or SIGUSR2, once `install` has been called."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self.request)

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:  # noqa: ARG002 - a signal handler's form
        """Asks to stop; also the handler of the signals."""
        self.requested = True

    def ignore(self) -> None:
        """No further signal counts: the work is over. While Python shuts down, its handlers are gone, and a second stop
        (Slurm sends one, the job's supervisor another) would turn the exit code into a death by signal."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
