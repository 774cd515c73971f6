"""Runs `sweep` and cleans what it says of all that differs from run to run."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FORGOTTEN = ("SWEEP_", "STAGE_", "SLURM_", "SBATCH_", "SQUEUE_", "COV_", "COVERAGE_", "PYTEST_")
"""Variables of whoever records, which would change what is recorded."""
PLAIN = {"NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb", "TZ": "UTC", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
DATE = re.compile(r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00|Z)?")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command said, with placeholders for places."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All of it as one text."""
        return f"exit code {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


@dataclass(frozen=True, kw_only=True)
class Program:
    """The `sweep` of one checkout, run in `folder` with `environment` besides the usual one."""

    tree: Path
    python: Path = Path(sys.executable)
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """Text -> what stands in its place in the record."""

    @property
    def variables(self) -> dict[str, str]:
        """The environment of the commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FORGOTTEN)}
        return {**kept, **PLAIN, "PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", **self.environment}

    def run(self, *arguments: str | Path, store: Path | None = None) -> Said:
        """One command to its end. The store becomes $STORE in what it says."""
        words = [str(self.python), "-m", "sweep", *map(str, arguments), *(["--store", str(store)] if store else [])]
        done = subprocess.run(
            words, cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False, timeout=900
        )
        return Said(
            code=done.returncode, out=self.cleaned(done.stdout, store=store), err=self.cleaned(done.stderr, store=store)
        )

    def cleaned(self, text: str, *, store: Path | None = None) -> str:
        """Places replaced, the longest first."""
        known = {str(self.tree): "$TREE", str(self.folder): "$FOLDER", str(self.python): "$PYTHON", **self.places}
        if store:
            known[str(store)] = "$STORE"
        return replaced(text, known)


def replaced(text: str, places: Mapping[str, str]) -> str:
    """Each key by its value, the longest first."""
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, places[place])
    return text


def write(path: Path, text: str) -> None:
    """A file of the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") or not text else f"{text}\n")


def names(words: Sequence[str]) -> str:
    """As a file's name."""
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "_", "-".join(words))
