"""prismatic's RUN.jsonl, a line a step: its lines as lines of metrics.jsonl."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.errors import DivergedError

RAW, RATE, STEP = "Finetune/Loss (Raw)", "Finetune/Learning Rate", "Finetune/Step"


class StepLog:
    """The log from its beginning; one of an attempt before is gone, as prismatic never goes on."""

    def __init__(self, path: Path, *, log_steps: int, source: str) -> None:
        self._path, self._log_steps, self._source = path, log_steps, source
        self._read = 0
        self._losses: list[float] = []
        self.total_steps = 0
        """Steps of the whole run, once known."""
        self.step, self.loss = 0, math.nan
        """The last step that was read, and the mean loss of the last line given."""

    def records(self) -> Iterator[dict[str, Any]]:
        """Of the lines that were ended since the last call: one record for each `log_steps` steps, and for the last.

        DivergedError for a loss that is not a number: prismatic itself would train on to the end.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._read)
            content = log.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            found = json.loads(line)
            self.step = int(found[STEP])
            self._losses.append(float(found[RAW]))
            if not math.isfinite(self._losses[-1]):
                raise DivergedError(f"prismatic's loss of step {self.step} is not a number")
            if self.step % self._log_steps == 0 or self.step == self.total_steps:
                yield self._record(found)

    def _record(self, found: dict[str, Any]) -> dict[str, Any]:
        self.loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        return {
            "step": self.step,
            "loss": self.loss,
            "losses": {self._source: self.loss},
            "lr": float(found[RATE]),
            "time": self._path.stat().st_mtime,
            "total_steps": self.total_steps,
            "first_step": 0,
        }
