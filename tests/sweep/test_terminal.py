"""Nothing that is printed steers a terminal, whatever a file, a record, a log or a command line holds."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.store.paths import Store
from jobs.store.records import FailureClass
from stages.printable import escape_unprintable, render_line
from sweep.cli import main
from sweep.terminal import PrintableStream, render_log_text, wrap_output
from tests.sweep.synthetic_store import START, Grid, plan, write_attempt

EVIL = "\x1b]0;owned\x07\x1b[2J\u202ename\x7f"
STEERING = ("\x1b", "\x07", "\u202e", "\x7f", "\r", "\x9b")


def is_plain(text: str) -> bool:
    return not any(letter in text for letter in STEERING)


def test_letters_that_cannot_be_seen_are_written_out_as_json_has_them() -> None:
    assert escape_unprintable("a\tb\n\x1b[31mc\u202e\x7f\ud800") == "a\tb\n\\u001b[31mc\\u202e\\u007f\\ud800"
    assert escape_unprintable("né 中") == "né 中"
    assert render_line("a\nb") == "a b"
    assert json.loads(escape_unprintable(json.dumps("\x7f"))) == "\x7f"


def test_everything_that_is_printed_in_a_command_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with wrap_output():
        print(EVIL)
        print(EVIL, file=sys.stderr)
    said = capsys.readouterr()
    assert is_plain(said.out + said.err)
    assert "name" in said.out


def test_what_an_encoding_lacks_is_written_out() -> None:
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PrintableStream(raw, "standard output").write("1 … 2\n")
    raw.flush()
    assert raw.buffer.getvalue() == b"1 \\u2026 2\n"


def test_a_record_a_log_and_a_command_line_cannot_steer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    made = plan(Store(store), Grid(branches=(0,), shares=(0.1,), epochs=(1,)))
    key = made.phase("pretrain")[0]
    write_attempt(made, key, "a1", START, 5.0, failure=FailureClass.CODE, message=f"{EVIL}\nforged: 3 jobs done")
    start = made.run(key).locate_attempt("a1").start
    start.write_text(json.dumps({**json.loads(start.read_bytes()), "host": EVIL}))
    made.run(key).locate_attempt("a1").log.write_text(f"10 %\r20 %\r\n\x1b[32mgreen\x1b[0m {EVIL}\n")
    for words in (
        ["status", "toy"],
        ["explain", "2m-b0-i10-dense-s0"],
        ["logs", "toy"],
        ["status", EVIL],
        ["forecast", EVIL],
    ):
        main([*words, "--store", str(store)])
        said = capsys.readouterr()
        assert is_plain(said.out + said.err), words
        assert not any(line.startswith("forged") for line in said.out.splitlines()), words
    with pytest.raises(SystemExit):
        main(["status", "toy", f"--{EVIL}"])
    assert is_plain(capsys.readouterr().err)


def test_a_log_loses_its_colours_and_keeps_its_lines() -> None:
    assert render_log_text("10 %\r20 %\r\n\x1b[1;32mgreen\x1b[0m\n") == "10 %\n20 %\ngreen\n"


def run_with_stdout(stdout: int, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sweep", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_a_full_disk_below_a_redirection_is_one_line() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = run_with_stdout(full, "completion", "bash")
    os.close(full)
    assert done.returncode == 1
    assert done.stderr == "sweep completion: standard output: the disk is full\n"


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_with_stdout(writer, "completion", "bash")
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_in_one_file_both_streams_stand_in_the_order_in_which_they_were_printed(tmp_path: Path) -> None:
    plan(Store(tmp_path), Grid(branches=(0,), shares=(0.0,), epochs=(1,)))
    log = tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with log.open("w") as file:
        words = [sys.executable, "-m", "sweep", "status", "toy", "--store", str(tmp_path)]
        subprocess.run(words, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=600)
    *table, last = log.read_text().splitlines()
    assert last.startswith("next: ")
    assert any(line.startswith("evaluate ") for line in table)
