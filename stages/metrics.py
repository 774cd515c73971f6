"""metrics.jsonl: one JSON object a line, append-only; a torn last line is ignored."""

import json
from pathlib import Path
from typing import Any

from stages.files import check_fence, replacing, storage_errors


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
