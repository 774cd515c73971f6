"""The lines of metrics that a program of the `command` engine appends to its own file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NUMBERS = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "total_steps", "first_step")
"""What is taken of a line; `step` must be there. A step that comes again takes the place of all from it on."""


class ProgramLog:
    """From the file's beginning: metrics.jsonl is written anew from it."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.has_nan = False
        """Whether the program has noted a loss that is not a number."""

    def records(self) -> Iterator[dict[str, Any]]:
        """Those of the lines that have been ended since the last call; a line that is none is passed over."""
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._read)
            content = log.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            found = numbers_of(line)
            self.has_nan = self.has_nan or not math.isfinite(found.get("loss", 0.0))
            step = int(found.get("step", -1)) if math.isfinite(found.get("step", -1)) else -1
            if step >= 0:
                finite = {name: value for name, value in found.items() if math.isfinite(value)}
                yield {**finite, "step": step, "time": self._path.stat().st_mtime}


def numbers_of(line: bytes) -> dict[str, float]:
    """The known numbers of a line; empty if it is no JSON object."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    known = content if isinstance(content, dict) else {}
    return {
        name: known[name]
        for name in NUMBERS
        if isinstance(known.get(name), int | float) and not isinstance(known[name], bool)
    }
