"""What a training says of its progress to the supervisor of its attempt, which ends it if it hangs."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median

WRITE_SECONDS = 15.0
MEDIANS = 50.0
"""A step that takes so many times the median of the run's own steps has hung."""
MIN_STEPS = 20
"""Steps of this process before anything counts as hung: the first ones compile, fill caches and connect."""
STEP_WINDOW = 128
STEP = "step"


# Why: docs/decisions.md, D129
class ProgressReport:
    """progress.json in the attempt's folder, written by a thread when something has changed.

    `floor_seconds`: the least time without a step that counts as hung; 0: none does. Nothing but a step has a limit:
    the wait for data, a checkpoint, a log line may take as long as they do.
    """

    def __init__(self, path: Path | None, floor_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`path`: None where nobody reads it."""
        self._path, self._floor_seconds, self._clock = path, floor_seconds, clock
        self._every_seconds = min(WRITE_SECONDS, floor_seconds / 10) if floor_seconds else WRITE_SECONDS
        self._lock = threading.Lock()
        self._seconds: deque[float] = deque(maxlen=STEP_WINDOW)
        self._timed = 0
        self._state: tuple[int, str] = (0, "start")
        self._written: tuple[int, str] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, step: int) -> None:
        """Begins to write; the run stands behind `step`."""
        self.note(step, "start")
        if self._path is not None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def note(self, step: int, doing: str) -> None:
        """What comes next, behind `step`."""
        with self._lock:
            self._state = (step, doing)

    def add_step(self, step: int, seconds: float) -> None:
        """A step has ended, after so many seconds without its wait for data."""
        with self._lock:
            self._seconds.append(seconds)
            self._timed += 1
            self._state = (step, "between")

    def stop(self) -> None:
        """Leaves a last record without a limit."""
        self.note(self._state[0], "end")
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._write()

    def build_record(self) -> dict[str, object]:
        """What the file says now."""
        with self._lock:
            (step, doing), timed = self._state, self._timed
            usual = median(self._seconds) if self._seconds else 0.0
        limit = 0.0
        if doing == STEP and timed >= MIN_STEPS and self._floor_seconds > 0:
            limit = max(self._floor_seconds, MEDIANS * usual)
        return {
            "step": step,
            "doing": doing,
            "limit_seconds": round(limit, 3),
            "step_seconds": round(usual, 6),
            "every_seconds": self._every_seconds,
        }

    def _run(self) -> None:
        while not self._over.wait(self._every_seconds):
            self._write()

    def _write(self) -> None:
        if self._path is None or self._state == self._written:
            return
        self._written = self._state
        unfinished = self._path.with_name(f".{self._path.name}.tmp")
        try:
            unfinished.write_text(json.dumps(self.build_record()) + "\n")
            unfinished.replace(self._path)
        except OSError:  # the next change is written; who reads the file does not take a store's silence for a hang
            self._written = None


def locate_progress(error: Path) -> Path | None:
    """Beside error.json, in the attempt's folder; None where no supervisor reads it."""
    return error.with_name("progress.json") if os.environ.get("SWEEP_ATTEMPT") else None
