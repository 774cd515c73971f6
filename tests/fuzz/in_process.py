"""`sweep` in this process, with outputs as strict as a terminal's."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from sweep.cli import main
from tests.fuzz.campaign import ViolationError

MOST_LETTERS = 60_000
"""Of an error. One line may name a file and quote what it holds, cut short; twenty problems are shown at most."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


def run_sweep(folder: Path, words: Sequence[str | Path]) -> Said:
    """Runs a command in `folder`. ViolationError for an exit code without a word, or an endless one."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(word) for word in words])
    finally:
        os.chdir(before)
    said = Said(code, _read(out), _read(err))
    if code not in {0, 1, 2}:
        raise ViolationError(f"exit code {code}: {said.err[-500:]}")
    if code and not (said.err.strip() or said.out.strip()):
        raise ViolationError(f"exit code {code} without a word")
    if len(said.err) > MOST_LETTERS:
        raise ViolationError(f"{len(said.err)} letters on stderr: {said.err[:300]}")
    return said


def _read(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


@contextmanager
def set_environment(**changes: str) -> Iterator[None]:
    """The environment with these variables in it."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
