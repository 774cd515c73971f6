"""Ends a stage that makes no steps any more, and keeps the stacks of its processes.

The stage alone knows what it is doing. It writes `progress.json` into the attempt's folder: its last step, and after
how many seconds without a change it counts as hung (`limit_seconds`; 0 while it starts, compiles, waits for data or
writes a checkpoint). A stage that writes no such file is never ended.
"""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.paths import AttemptPaths, write_json
from jobs.store.reading import parse_object, read_file

POLL_SECONDS = 5.0
STACKS_SECONDS = 5.0
"""How long the processes of a hung stage may take to write their stacks."""
STACKS_SIGNAL = signal.SIGUSR1


# Why: docs/decisions.md, D129
@dataclass(slots=True)
class HangWatch:
    """Watches one stage from a thread, while `watch` is entered. `kill` ends all of its processes."""

    attempt: AttemptPaths
    child: subprocess.Popen[Any]
    kill: Callable[[], None]
    clock: Clock = SYSTEM_CLOCK
    poll_seconds: float = POLL_SECONDS
    reason: str = ""
    """Why the stage was ended, in one line; empty if it was not."""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _before: bytes = b""
    """What was there before the stage began."""
    _seen: bytes = b""
    _quiet_seconds: float = 0.0

    def start(self) -> None:
        self._before = self._read_progress()
        self._thread = threading.Thread(target=self._run, name="hang watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns once nothing more is ended; removes the files of stacks that were not needed."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for path in self.attempt.root.glob("stacks-*.txt"):
            with contextlib.suppress(OSError):  # how the stage has ended is still to be recorded
                if path.stat().st_size == 0:
                    path.unlink()

    def _run(self) -> None:
        before = self.clock.monotonic()
        while not self._over.wait(self.poll_seconds):
            now = self.clock.monotonic()
            # a job that was suspended, with this process, has not hung all the while
            if self.is_over_limit(min(now - before, 2 * self.poll_seconds)) and self._is_confirmed():
                self.reason = self._explain()
                self.kill()
                return
            before = now

    def is_over_limit(self, passed: float) -> bool:
        """Takes another look, `passed` seconds after the last one."""
        content = self._read_progress()
        limit = read_number(content, "limit_seconds")
        if content != self._seen or content == self._before or limit <= 0:
            self._seen, self._quiet_seconds = content, 0.0
            return False
        self._quiet_seconds += passed
        return self._quiet_seconds > limit

    def _read_progress(self) -> bytes:
        try:
            return read_file(self.attempt.progress)
        except OSError:  # nothing is known
            return b""

    def _is_confirmed(self) -> bool:
        """Whether it stays so after the store has taken a file from here, and the processes had time to write theirs.

        A store that takes nothing is why nothing changes there.
        """
        try:
            write_json(
                self.attempt.hang,
                {"quiet_seconds": self._quiet_seconds, "step": self._get_number("step")},
                lasting=False,
            )
        except OSError:
            self._quiet_seconds = 0.0
            return False
        if any(self.attempt.root.glob("stacks-*.txt")):  # else the signal would end the stage
            self.child.send_signal(STACKS_SIGNAL)  # srun passes it on to all ranks
        self._over.wait(max(STACKS_SECONDS, 2 * self._get_number("every_seconds")))
        if not self._over.is_set() and self.is_over_limit(0.0):
            return True
        with contextlib.suppress(OSError):
            self.attempt.hang.unlink()
        return False

    def _explain(self) -> str:
        stacks = sum(_has_content(path) for path in self.attempt.root.glob("stacks-*.txt"))
        kept = f"; the stacks of {stacks} processes are in {self.attempt.root}" if stacks else ""
        return (
            f"no step after step {self._get_number('step'):.0f} for {self._quiet_seconds:.0f} s, "
            f"at most {self._get_number('limit_seconds'):.0f} s are usual{kept}"
        )

    def _get_number(self, name: str) -> float:
        """Of the record that was judged: the file may have become unreadable since."""
        return read_number(self._seen, name)


MOST_SECONDS = 1e9


def read_number(content: bytes, name: str) -> float:
    """A number of a progress record; 0 where it has none of that name that is one."""
    try:
        value = parse_object(content).get(name)
    except ValueError:
        return 0.0
    return float(value) if isinstance(value, int | float) and 0 <= value <= MOST_SECONDS else 0.0


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
