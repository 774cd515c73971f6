"""A job's metrics as they grow: last line, loss curve, speed. A file is read again only where it has changed."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jobs.store.reading import is_number, open_to_read, parse_object

FIRST_READ_BYTES = 1 << 20
"""Of a long file, its end: what came before is left out of the curve."""
MOST_POINTS = 2_048
BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-:=+*#"
"""For terminals whose encoding has no blocks."""


class MetricsCurve:
    """metrics.jsonl of one job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._position = 0
        self._torn = b""
        self.last: Mapping[str, Any] = {}
        """The last whole line."""
        self.losses: list[float] = []
        self._times: list[tuple[float, float]] = []
        """Time and step of the lines, newest last."""

    def update(self) -> bool:
        """Whether there was something new."""
        try:
            known = self._path.stat()
        except OSError:
            return False
        mark = (known.st_ino, known.st_size, known.st_mtime_ns)
        if mark == self._mark:
            return False
        if self._mark is None or self._mark[0] != mark[0] or known.st_size < self._position:
            # an attempt that does steps again writes the file anew, without their lines
            self._position, self._torn, self.losses, self._times = max(0, known.st_size - FIRST_READ_BYTES), b"", [], []
        self._mark = mark
        try:
            with open_to_read(self._path) as file:
                file.seek(self._position)
                content = file.read(4 * FIRST_READ_BYTES)
        except OSError:
            return False
        self._position += len(content)
        *lines, self._torn = (self._torn + content).split(b"\n")
        for line in lines:
            self._add(line)
        return bool(lines)

    def _add(self, line: bytes) -> None:
        try:
            record = parse_object(line)
        except ValueError:
            return  # torn, or the rest of a line whose begin was left out
        self.last = record
        loss, time, step = (read_number(record, name) for name in ("loss", "time", "step"))
        if loss is not None:
            self.losses.append(loss)
        if time is not None and step is not None:
            self._times.append((time, step))
        if len(self.losses) > 2 * MOST_POINTS:
            self.losses = merge_pairs(self.losses)
        del self._times[:-MOST_POINTS]

    def get_number(self, name: str) -> float | None:
        """Of the last line; None where it has no such number."""
        return read_number(self.last, name)

    def estimate_seconds_left(self, begun_at: float, now: float) -> float | None:
        """Seconds to the last step at the pace of this attempt's lines, which begin after `begun_at` (Unix seconds)."""
        step, total = self.get_number("step"), self.get_number("total_steps")
        own = [pair for pair in self._times if pair[0] > begun_at]
        if step is None or total is None or len(own) < 2 or own[-1][1] <= own[0][1]:
            return None
        pace = (own[-1][0] - own[0][0]) / (own[-1][1] - own[0][1])
        return max(0.0, (total - step) * pace - max(0.0, now - own[-1][0]))


def read_number(record: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a record; None for anything else."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def merge_pairs(values: Sequence[float]) -> list[float]:
    """Half as many, each the mean of two neighbours."""
    return [(one + other) / 2 for one, other in zip(values[::2], values[1::2], strict=False)]


def draw_sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """The curve in `width` letters: each the mean of its part, between the least and the largest mean."""
    if not values or width < 1:
        return ""
    parts = min(width, len(values))
    edges = [len(values) * number // parts for number in range(parts + 1)]
    means = [sum(values[begin:end]) / (end - begin) for begin, end in pairwise(edges)]
    least, span = min(means), max(means) - min(means)
    top = len(blocks) - 1
    return "".join(blocks[round(top * (mean - least) / span) if span > 0 else 0] for mean in means)
