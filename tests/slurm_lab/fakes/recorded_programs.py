"""Slurm's own programs behind scripts that note how they are called."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "sdiag")
RECORDER = """#!/bin/sh
call={folder}/calls/$(date +%s%N)-$$
for word in {name} "$@"; do printf '%s\\0' "$word"; done > $call.words
case {name} in sbatch) cat > $call.script; exec {real} "$@" < $call.script;; esac
exec {real} "$@"
"""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call: its words, the program's name first, and sbatch's script."""

    words: tuple[str, ...]
    script: str


@dataclass(frozen=True, slots=True)
class Recorder:
    """The scripts ahead of the real programs on the path."""

    folder: Path

    def take(self) -> list[RecordedCall]:
        """The calls since the last time, in their order."""
        found = []
        for path in sorted((self.folder / "calls").glob("*.words")):
            script = path.with_suffix(".script")
            words = tuple(path.read_text().split("\0")[:-1])
            found.append(RecordedCall(words, script.read_text() if script.exists() else ""))
            path.unlink()
        return found

    def count(self) -> Counter[str]:
        """Calls since the last time, by program."""
        return Counter(call.words[0] for call in self.take())


def record_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Puts the scripts in front until the test ends."""
    programs = folder / "recorded"
    (programs / "calls").mkdir(parents=True)
    for name in PROGRAMS:
        text = RECORDER.format(folder=programs, name=name, real=shutil.which(name))
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return Recorder(programs)
