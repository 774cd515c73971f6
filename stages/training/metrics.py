"""metrics.jsonl: one JSON object a line, append-only; a torn last line is ignored."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.files import check_fence, replacing, storage_errors
from stages.trackers import Tracker


class MetricsLog:
    """The log of one job, over all its attempts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def drop_after(self, step: int) -> None:
        """Removes the lines of steps that a restored run will do again, and a torn last line."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if (found := line_step(line)) and found <= step]
        with replacing(self.path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line. StorageError if the file system refuses it; an attempt that was taken over adds none."""
        check_fence()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as log:
                log.write(json.dumps(record, allow_nan=False) + "\n")


def line_step(line: str) -> int | None:
    """The step of a metrics line; None for a torn one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


class Log:
    """Where a training's figures go: metrics.jsonl, and the trackers that were asked for.

    Of several processes the first alone has one that writes.
    """

    def __init__(self, metrics: MetricsLog | None, trackers: Callable[[int], Sequence[Tracker]]) -> None:
        """`metrics`: None for a process that logs nothing. `trackers` opens them, given the step to go on from."""
        self._metrics, self._open_trackers = metrics, trackers
        self._trackers: Sequence[Tracker] = ()

    def begin(self, step: int) -> None:
        """The run goes on after `step`: what was logged of later ones will come again."""
        if self._metrics is not None:
            self._metrics.drop_after(step)
            self._trackers = self._open_trackers(step)

    def write(self, record: dict[str, Any]) -> None:
        """A line; see `MetricsLog.write`."""
        if self._metrics is not None:
            self._metrics.write(record)
            for tracker in self._trackers:
                tracker.write(record["step"], flat(record))

    def close(self) -> None:
        """Hands on what trackers hold back."""
        for tracker in self._trackers:
            tracker.close()


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line; those of a nested object under `outer/inner`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found
