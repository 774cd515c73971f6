"""Commands on pseudo-terminals of several widths, with and without colours, and into pipes that close."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from sweep.cli import main
from tests.sweep.small_sweep import ROOT, SMALL, written

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
CELL = "mtiny-b50-i0-c0-x1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("terminal")
    assert main(["plan", str(written(folder, SMALL)), "--store", str(folder / "store")]) == 0
    return str(folder / "store")


def show(columns: int, *words: str, **environment: str) -> str:
    """What the command writes to a terminal that is so wide; stderr is left out."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    known = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", *words],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**known, "TERM": "xterm-256color", **environment},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(reader, 65_536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(reader)
    process.wait(timeout=600)
    return shown.decode().replace("\r\n", "\n")


def list_tables(text: str) -> list[str]:
    """The lines of tables: a rule, what is above it to the next empty line, and what is below it."""
    return [
        line
        for part in ESCAPE.sub("", text).split("\n\n")
        if any(set(line) == {"-"} for line in part.splitlines())
        for line in part.splitlines()
    ]


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("words", [["status", "small"], ["explain", "small", CELL], ["list"], ["list", "small"]])
def test_tables_bend_to_the_terminal_and_lose_nothing(store: str, columns: int, words: list[str]) -> None:
    lines = list_tables(show(columns, *words, "--store", store))
    assert lines
    assert max(map(len, lines)) <= columns
    wide = list_tables(show(400, *words, "--store", store))
    for word in set(" ".join(wide).split()):
        if not set(word) <= set("[#.]-%"):
            assert word in " ".join(lines), word


def test_the_plans_report_bends(store: str, tmp_path: Path) -> None:
    shown = show(60, "plan", str(written(tmp_path, SMALL)), "--store", store)
    assert max(map(len, list_tables(shown))) <= 60
    assert "core-hours" in shown


def test_states_have_colours_on_a_terminal_alone(store: str) -> None:
    plain = show(100, "status", "small", "--store", store, NO_COLOR="1")
    assert "\x1b" not in plain
    coloured = show(100, "status", "small", "--store", store)
    assert "\x1b[34mready\x1b[0m" in coloured
    assert ESCAPE.sub("", coloured) == plain
    assert "\x1b" not in show(100, "status", "small", "--store", store, TERM="dumb")
    assert "\x1b" not in show(100, "status", "small", "--json", "--store", store)


QUIET = {
    "help": ["--help"],
    "help of a command": ["status", "--help"],
    "status": ["status", "small"],
    "status as JSON": ["status", "small", "--json"],
    "explain": ["explain", "small", CELL],
    "list": ["list", "small"],
    "submit": ["submit", "small", "--dry-run", "--ignore-data"],
    "resume": ["resume", "small", "--dry-run"],
    "limits": ["limits", "small"],
    "doctor": ["doctor", "small"],
    "tick": ["tick", "small", "--no-results"],
    "completion": ["completion", "bash"],
}


@pytest.mark.parametrize("words", QUIET.values(), ids=QUIET)
def test_a_reader_that_leaves_is_no_error(store: str, words: list[str]) -> None:
    given = [] if "--help" in words else ["--store", store]
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", *words, *given], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=600)
    assert process.returncode in {0, 141}  # help is printed whole before the process learns that nobody reads it
    for word in (b"Broken pipe", b"BrokenPipe", b"Traceback", b"Exception"):
        assert word not in errors


def test_both_streams_may_close(store: str) -> None:
    line = f"{sys.executable} -m sweep status small --store {store} 2>&1 | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) in {(141, ""), (0, "")}
