"""Being asked to stop: signals only set a flag, which the loop reads between steps."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


# Why: docs/decisions.md, D128
@contextmanager
def exit_at_stop(stop: StopFlag) -> Iterator[None]:
    """Around a call that waits in a library and has nothing to save: a stop ends the process at once, with `STOPPED`.

    Python runs the handler of a signal only once the call returns, which takes until the library's own time-out. Here
    the operating system writes the signal's number into a pipe, and a thread reads it. Does nothing outside the main
    thread, where Python hears no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    watcher = threading.Thread(target=exit_when_told, args=(heard,), name="stop", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    try:
        if stop.requested:
            exit_stopped()
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)
        watcher.join()
        os.close(heard)


def exit_when_told(heard: int) -> None:
    """Reads numbers of signals from a pipe until its other end is closed."""
    while content := os.read(heard, 64):
        if set(STOP_SIGNALS).intersection(content):
            exit_stopped()


def exit_stopped() -> None:
    """Ends the process, whatever its other threads wait for."""
    with contextlib.suppress(OSError, ValueError):
        print("stages: asked to stop while it waited for the job's other processes", file=sys.stderr, flush=True)
    os._exit(STOPPED)
