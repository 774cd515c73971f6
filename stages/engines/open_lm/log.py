"""open_lm's out.log: its lines of progress as lines of metrics.jsonl."""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.config import PretrainConfig
from stages.engines.limits import compute_epoch_steps

PROGRESS = re.compile(
    r"Train Epoch: (?P<epoch>\d+) \[ *(?P<samples>\d+)/\d+ \(\d+%\)\] Loss: (?P<loss>[\d.]+|nan|inf)"
    r".*?, (?P<speed>[\d.e+-]+)/s,.* LR: (?P<lr>[\d.e+-]+)"
)
WRITTEN_AT = re.compile(r"\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d")
NOT_A_NUMBER = "Training exiting due to NaN value"


class OpenLMLog:
    """The log from its beginning: a run that went on has lines of all attempts, steps that were done twice included."""

    def __init__(self, path: Path, config: PretrainConfig, *, first_step: int) -> None:
        self._path, self._config, self._first_step = path, config, first_step
        self._read = 0
        self._of_before = path.stat().st_size if path.exists() else 0
        self.has_nan = False
        """Whether open_lm has stopped, since this log was opened, as its loss was not a number: it says so nowhere
        else."""

    def read_records(self) -> Iterator[dict[str, Any]]:
        """Metrics of the lines that have been ended since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._read)
            content = log.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            self._read += len(line)
            text = line.decode(errors="replace")
            found = PROGRESS.search(text)
            loss = float(found["loss"]) if found else 0.0
            if self._read > self._of_before and (NOT_A_NUMBER in text or math.isnan(loss)):
                self.has_nan = True
            if found and math.isfinite(loss):
                yield self._record(found, loss, self._written_at(text))

    def _written_at(self, line: str) -> float:
        """Unix seconds: the line's own, in this machine's time zone; without any the file's."""
        found = WRITTEN_AT.match(line)
        return time.mktime(time.strptime(found[0], "%Y-%m-%d,%H:%M:%S")) if found else self._path.stat().st_mtime

    def _record(self, found: re.Match[str], loss: float, written_at: float) -> dict[str, Any]:
        """`tokens_per_second` is that of the last step alone; the logged step's loss counts twice in `loss`."""
        config = self._config
        step = int(found["epoch"]) * compute_epoch_steps(config) + int(found["samples"]) // config.batch_sequences
        return {
            "step": step,
            "tokens": (step - self._first_step) * config.step_tokens,
            "loss": loss,
            "losses": {config.sources[0].name: loss},
            "lr": float(found["lr"]),
            "tokens_per_second": float(found["speed"]),
            "time": written_at,
            "total_steps": config.last_step,
            "first_step": self._first_step,
        }
