"""What a job says of its progress in the attempt's log: one printable line at a time, for people who follow it.

Figures that programs read are in metrics.jsonl and result.json. A line here may be lost, and nothing depends on it.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from stages.printable import render_line

DAY_S = 86_400
TASK_LINE_S = 10.0
"""Between two lines about one task."""


# Why: docs/decisions.md, D188
def write_log_line(text: str) -> None:
    """One line on stderr, with the time of day. A log that takes no more is no reason to end a job."""
    clock = datetime.now(UTC).strftime("%H:%M:%SZ")
    with contextlib.suppress(OSError, ValueError):  # ValueError: stderr is closed
        print(f"{clock}  {render_line(text)}", file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
    """A duration: `40 s`, `35 min`, `7.5 h`, `12.0 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds >= 2 * DAY_S:
        return f"{seconds / DAY_S:.1f} days"
    return f"{seconds / 3_600:.1f} h" if seconds >= 7_200 else f"{seconds / 60:.0f} min"


class TrainingLines:
    """The lines of one attempt at a training: one at its begin, one for each line of metrics.

    Time left is told from the second line of metrics on, by the steps since the first: those before it compile, fill
    caches and connect.
    """

    def __init__(self, last_step: int, clock: Callable[[], float]) -> None:
        self._last_step, self._clock = last_step, clock
        self._from: tuple[int, float] | None = None
        """Step and time of the first line of metrics."""

    def write_begin(self, step: int, first_step: int) -> None:
        """Where the attempt stands before its first step."""
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        how = "goes on from" if step > first_step else "begins at"
        write_log_line(f"{how} step {step:,} of {self._last_step:,}, on {today}")

    def write_step(self, record: dict[str, Any]) -> None:
        """One line of metrics, for people."""
        step = record["step"]
        line = (
            f"step {step:,} of {self._last_step:,}  loss {record['loss']:.4f}  lr {record['lr']:.3g}  "
            f"{record['tokens_per_second']:,.0f} tokens/s"
        )
        now = self._clock()
        if self._from is None:
            self._from = step, now
        elif step > self._from[0]:
            left = (self._last_step - step) * (now - self._from[1]) / (step - self._from[0])
            line += f"  {format_seconds(left)} left" if step < self._last_step else ""
        write_log_line(line)


class TaskLines:
    """The lines of one task of an evaluation while it is scored, no more than one in `TASK_LINE_S`."""

    def __init__(
        self, name: str, *, writes: bool, done_before: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`writes`: whether this process is the one of its job that writes. `done_before`: by an earlier attempt."""
        self._name, self._writes, self._done_before, self._clock = name, writes, done_before, clock
        self._begun_at = self._written_at = clock()

    def note(self, done: int, total: int, unit: str) -> None:
        """So many of the task's questions or requests are answered; writes a line if it is time for one."""
        now = self._clock()
        if not self._writes or now - self._written_at < TASK_LINE_S:
            return
        self._written_at = now
        rate = (done - self._done_before) / (now - self._begun_at)
        left = f"  {format_seconds((total - done) / rate)} left" if rate > 0 and done < total else ""
        write_log_line(f"{self._name}: {done:,} of {total:,} {unit}{left}")
