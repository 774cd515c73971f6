"""An sbatch that gets no answer through, or no request, where a test wants it so."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

SBATCH = """#!/bin/sh
case " $* " in *" --test-only "*) echo "$*" >> {folder}/questions; exec {real} "$@";; esac
echo call >> {folder}/calls
if rm {folder}/lose-answer 2> /dev/null; then {real} "$@" > {folder}/answer 2>&1; exec sleep 300; fi
if rm {folder}/lose-request 2> /dev/null; then exec sleep 300; fi
exec {real} "$@"
"""


@dataclass(frozen=True, slots=True)
class SbatchWrapper:
    """An sbatch ahead of the real one on the path: counts calls, and loses an answer or a request when told to."""

    folder: Path

    @property
    def calls(self) -> int:
        path = self.folder / "calls"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def questions(self) -> int:
        """Calls with --test-only, which send nothing and are not among the others."""
        path = self.folder / "questions"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def answer(self) -> str:
        """The last answer that was lost; empty if there is none yet."""
        path = self.folder / "answer"
        return path.read_text() if path.exists() else ""

    def lose_the_next_answer(self) -> None:
        """Slurm takes the job, and sbatch says nothing for five minutes."""
        (self.folder / "lose-answer").touch()

    def lose_the_next_request(self) -> None:
        """sbatch hangs before Slurm hears of the job."""
        (self.folder / "lose-request").touch()


def wrap_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SbatchWrapper:
    """Puts the wrapper in front until the test ends."""
    programs = folder / "wrapped"
    programs.mkdir()
    program = programs / "sbatch"
    program.write_text(SBATCH.format(folder=programs, real=shutil.which("sbatch")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return SbatchWrapper(programs)
