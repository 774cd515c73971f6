"""Ends a stage that makes no steps any more, and keeps the stacks of its processes.

The stage alone knows what it is doing. It writes `progress.json` into the attempt's folder: its last step, and after
how many seconds without a change it counts as hung (`limit_seconds`; 0 while it starts, compiles, waits for data or
writes a checkpoint). A stage that writes no such file is never ended.
"""

import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.paths import AttemptPaths, write_json
from jobs.store.records import read_record

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
            if path.stat().st_size == 0:
                path.unlink(missing_ok=True)

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
        limit = self._read_number("limit_seconds")
        if content != self._seen or content == self._before or limit <= 0:
            self._seen, self._quiet_seconds = content, 0.0
            return False
        self._quiet_seconds += passed
        return self._quiet_seconds > limit

    def _read_progress(self) -> bytes:
        try:
            return self.attempt.progress.read_bytes()
        except OSError:  # nothing is known
            return b""

    def _is_confirmed(self) -> bool:
        """Whether it stays so after the store has taken a file from here, and the processes had time to write theirs.

        A store that takes nothing is why nothing changes there.
        """
        try:
            write_json(self.attempt.hang, {"quiet_seconds": self._quiet_seconds, "step": self._read_number("step")})
        except OSError:
            self._quiet_seconds = 0.0
            return False
        if any(self.attempt.root.glob("stacks-*.txt")):  # else the signal would end the stage
            self.child.send_signal(STACKS_SIGNAL)  # srun passes it on to all ranks
        self._over.wait(max(STACKS_SECONDS, 2 * self._read_number("every_seconds")))
        if not self._over.is_set() and self.is_over_limit(0.0):
            return True
        self.attempt.hang.unlink(missing_ok=True)
        return False

    def _explain(self) -> str:
        stacks = sum(path.stat().st_size > 0 for path in self.attempt.root.glob("stacks-*.txt"))
        kept = f"; the stacks of {stacks} processes are in {self.attempt.root}" if stacks else ""
        return (
            f"no step after step {self._read_number('step'):.0f} for {self._quiet_seconds:.0f} s, "
            f"at most {self._read_number('limit_seconds'):.0f} s are usual{kept}"
        )

    def _read_number(self, name: str) -> float:
        record = read_record(self.attempt.progress) or {}
        value = record.get(name)
        return float(value) if isinstance(value, int | float) else 0.0
