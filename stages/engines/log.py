"""The logs that other programs write, followed while they run: new lines, and lines of progress as metrics."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.config import PretrainConfig

WRITTEN_AT = re.compile(r"\d{4}-\d\d-\d\d,\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a program has ended."""

    text: str
    is_new: bool
    """It was written after the log was opened here: not by an attempt before."""
    written_at: float
    """Unix seconds: the line's own time in this machine's time zone, else the file's."""


class LogFollower:
    """Hands out a log's lines from its beginning. A program that continues appends to its old log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_bytes = 0
        self._bytes_before = path.stat().st_size if path.exists() else 0

    def read_new_lines(self) -> Iterator[LogLine]:
        """The lines that have been ended since the last call; half a line waits for its end."""
        if not self.path.exists():
            return
        with self.path.open("rb") as log:
            log.seek(self._read_bytes)
            content = log.read()
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            self._read_bytes += len(line)
            text = line.decode(errors="replace")
            yield LogLine(text, self._read_bytes > self._bytes_before, self._find_time(text))

    def _find_time(self, text: str) -> float:
        found = WRITTEN_AT.match(text)
        return time.mktime(time.strptime(found[0], "%Y-%m-%d,%H:%M:%S")) if found else self.path.stat().st_mtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecord:
    """A training program's line of progress."""

    step: int
    loss: float
    """May be NaN or infinite."""
    lr: float
    per_second: float
    """In the program's own unit, tokens or samples."""
    line: LogLine

    def build_metrics(self, config: PretrainConfig, *, first_step: int, tokens_per_second: float) -> dict[str, Any]:
        """A line of metrics.jsonl of a run on one data set."""
        return {
            "step": self.step,
            "tokens": (self.step - first_step) * config.step_tokens,
            "loss": self.loss,
            "losses": {next(source.name for source in config.sources if source.share > 0): self.loss},
            "lr": self.lr,
            "tokens_per_second": tokens_per_second,
            "time": self.line.written_at,
            "total_steps": config.last_step,
            "first_step": first_step,
        }


def parse_progress(line: LogLine, word: str, config: PretrainConfig, part_steps: int) -> ProgressRecord | None:
    """A line such as `Train Epoch: 3 [512/1024 (50%)] Loss: 2.5 ..., 1.2e+3/s, ... LR: 0.001`; None for any other.

    open_lm and VLA Foundry, which descends from it, write such lines. `word` names the part (Epoch, Checkpoint) that
    the program counts; a part has `part_steps` steps.
    """
    found = re.search(
        rf"Train {word}: (?P<part>\d+) \[ *(?P<samples>\d+)/\d+ \(\d+%\)\] Loss: (?P<loss>-?[\d.]+|nan|-?inf)"
        r".*?, (?P<speed>[\d.e+-]+)/s,.* LR: *(?P<lr>[\d.e+-]+)",
        line.text,
    )
    if found is None:
        return None
    return ProgressRecord(
        step=int(found["part"]) * part_steps + int(found["samples"]) // config.batch_sequences,
        loss=float(found["loss"]),
        lr=float(found["lr"]),
        per_second=float(found["speed"]),
        line=line,
    )


def read_last_loss(metrics: Path) -> float | None:
    """The loss in the last line of metrics.jsonl; None where there is none."""
    try:
        return float(json.loads(metrics.read_text().splitlines()[-1])["loss"])
    except (OSError, IndexError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
