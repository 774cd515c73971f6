"""One of Slurm's programs that fails, where a test wants it so; all others work."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = """#!/bin/sh
echo call >> {folder}/{name}.calls
if [ -e {folder}/{name}.fails ]; then cat {folder}/{name}.fails >&2; exit {code}; fi
exec {real} "$@"
"""


@dataclass(frozen=True, slots=True)
class FailingProgram:
    """A program ahead of the real one on the path, which it replaces until `repair`."""

    folder: Path
    name: str

    def repair(self) -> None:
        """From now on the real one is run."""
        (self.folder / f"{self.name}.fails").unlink()

    @property
    def calls(self) -> int:
        """How often it was called, failing or not."""
        path = self.folder / f"{self.name}.calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


def fail_program(
    name: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, code: int = 1
) -> FailingProgram:
    """Puts it in front until the test ends; it says `words` on stderr and exits with `code`."""
    programs = folder / f"failing-{name}"
    programs.mkdir()
    program = programs / name
    program.write_text(PROGRAM.format(folder=programs, name=name, code=code, real=shutil.which(name)))
    program.chmod(0o755)
    (programs / f"{name}.fails").write_text(f"{words}\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return FailingProgram(programs, name)
