"""The completion scripts in the real shells; zsh and fish where they are there (`make test` installs them)."""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweep.cli import main
from tests.sweep.small_sweep import ROOT, SMALL, written

CASES = [
    ("sweep sta", ["status"]),
    ("sweep status sm", ["small"]),
    ("sweep status small mtiny-b50", ["mtiny-b50-i0-c0-x1", "mtiny-b50-i20-c0-x1"]),
    ("sweep status --all small mtiny-b100-i0", ["mtiny-b100-i0-c0-x1"]),
    ("sweep resume small --cpus 2 mtiny-b0-i2", ["mtiny-b0-i20-c0-x1"]),
    ("sweep status small --phase ev", ["evaluate"]),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a planned sweep, the program `sweep`, and the scripts."""
    folder = tmp_path_factory.mktemp("completion")
    assert main(["plan", str(written(folder, SMALL)), "--store", str(folder / "store")]) == 0
    program = folder / "bin" / "sweep"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m sweep "$@"\n')
    program.chmod(0o755)
    for shell, name in (("bash", "sweep.bash"), ("zsh", "_sweep"), ("fish", "sweep.fish")):
        made = subprocess.run([program, "completion", shell], capture_output=True, text=True, check=True, cwd=folder)
        (folder / name).write_text(made.stdout)
        assert made.stderr.startswith("next: put this into ~/")
    return folder


def ask(place: Path, *words: str) -> str:
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "SWEEP_STORE": str(place / "store")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=place, env=environment, timeout=600)
    return done.stdout


def test_bash_completes_commands_sweeps_cells_and_values(place: Path) -> None:
    lines = ["source ./sweep.bash"]
    for line, _ in CASES:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        lines.append(
            f"COMP_WORDS=({words}); COMP_CWORD={len(line.split(' ')) - 1}; _shtab_sweep; echo ${{COMPREPLY[*]}}"
        )
    found = ask(place, "bash", "--norc", "-c", "\n".join(lines)).splitlines()
    assert [each.split() for each in found] == [names for _, names in CASES]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_completes_the_same(place: Path) -> None:
    lines = ["source ./sweep.fish", *(f"complete -C '{line}' | cut -f1; echo ==" for line, _ in CASES)]
    found = ask(place, "fish", "--no-config", "-c", "\n".join(lines)).split("==\n")
    assert [each.split() for each in found[:-1]] == [names for _, names in CASES]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_completes_a_cell(place: Path) -> None:
    start = f"PS1='ready> '; fpath=({place} $fpath); autoload -U compinit; compinit -u -d {place}/dump\n"
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(PATH=f"{place / 'bin'}:{os.environ['PATH']}", SWEEP_STORE=str(place / "store"), TERM="dumb")
        os.chdir(place)
        os.execvp("zsh", ["zsh", "-f", "-i"])  # noqa: S606 - the child of a fork
    try:
        os.write(terminal, start.encode())
        read_until(terminal, "ready> ")
        os.write(terminal, b"sweep status small mtiny-b50-i2\t")
        read_until(terminal, "mtiny-b50-i20-c0-x1")
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


def read_until(terminal: int, wanted: str) -> None:
    shown, deadline = "", time.monotonic() + 60
    while wanted not in shown.rpartition("dump")[2]:
        assert time.monotonic() < deadline, shown
        shown += os.read(terminal, 4_096).decode(errors="replace")


def test_names_that_are_none_of_ours_are_not_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweeps" / "evil"
    folder.mkdir(parents=True)
    lines = ['{"record":"header"}', '{"record":"cell","name":"$(touch x)"}', '{"record":"cell","name":"good"}', "{"]
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    (tmp_path / "sweeps" / "a;b").mkdir()
    (tmp_path / "sweeps" / "a;b" / "manifest.jsonl").write_text("")
    assert main(["completion", "bash", "--words", "status\nevil", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["good"]
    assert main(["completion", "bash", "--words", "status", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["evil", "good"]
