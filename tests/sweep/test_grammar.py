"""One grammar for all commands: `sweep COMMAND NAME [CELL...]`, options anywhere, near misses told."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from sweep.cli import build_command_parser, main, parse_arguments
from sweep.options import read_options
from tests.sweep.small_sweep import SMALL, edited, written
from tests.sweep.synthetic_store import Grid, toy

CELL = "mtiny-b50-i0-c0-x1"


@pytest.fixture
def store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    root = str(tmp_path / "store")
    assert main(["plan", str(written(tmp_path, SMALL)), "--store", root]) == 0
    capsys.readouterr()
    return root


@pytest.mark.parametrize(
    "line",
    [
        "export demo --epochs 4 CELL --out x",
        "export --epochs 4 demo --out x CELL",
        "export --out x demo CELL --epochs 4",
        "--store s export demo CELL --out x --epochs 4",
        "-v export demo CELL --out=x --epochs=4",
    ],
)
def test_options_may_stand_anywhere(line: str) -> None:
    _, given = parse_arguments(line.split())
    options = read_options(given.module.OPTIONS, given)
    assert (options.name, options.cells, options.epochs, options.out) == ("demo", ("CELL",), 4, Path("x"))


def test_options_may_stand_anywhere_in_commands_with_parts() -> None:
    for line in ("data --store s text a --out x b --tokenizer t", "data text --out x a b --store s --tokenizer t"):
        _, given = parse_arguments(line.split())
        options = read_options(given.module.OPTIONS, given)
        assert (options.inputs, options.out, options.store) == ((Path("a"), Path("b")), Path("x"), Path("s"))


WITH_CELLS = (
    "status",
    "logs",
    "explain",
    "results",
    "export",
    "cancel",
    "resume",
    "submit",
    "tick",
    "list",
    "forecast",
)


@pytest.mark.parametrize("command", WITH_CELLS)
def test_every_command_takes_a_name_and_then_cells(command: str) -> None:
    words = ["demo", "a", "b", *(["--out", "x"] if command == "export" else [])]
    given = build_command_parser(command).parse_words(words)
    assert (given.name, given.cells) == ("demo", ["a", "b"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("statsu demo", "there is no command 'statsu'; did you mean status?"),
        ("study status", "there is no command 'study'; the command comes first: `sweep status NAME`"),
        ("data txet", "there is no `sweep data txet`; did you mean text?"),
        ("status demo --jsn", "unrecognized arguments: '--jsn'; did you mean --json?"),
        ("logs demo --phase traning", "invalid choice: 'traning'"),
    ],
)
def test_a_near_miss_is_wrong_usage_and_told(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_the_version_is_told_whatever_stands_behind(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["--version", "status"], ["-v", "--version", "status", "demo"]):
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == version("sweep-vlm")


def test_an_empty_word_is_no_cell_not_even_of_a_sweep_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy(tmp_path, Grid("one", branches=(0,), shares=(0.1,), epochs=(1,)))
    for command in ("status", "cancel", "resume", "logs"):
        assert main([command, "one", "", "--store", str(tmp_path)]) == 2
        assert "an empty word names no cell" in capsys.readouterr().err


def test_the_name_of_the_only_sweep_may_be_left_out_where_nothing_is_changed(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status", "--json"], ["status", "small", "--json"]):
        assert main([*words, "--store", store]) == 0
        assert json.loads(capsys.readouterr().out)["jobs"] == 32
    assert main(["status", "mtiny-b0-*", "--json", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 10
    assert main(["cancel", CELL, "--store", store]) == 1
    assert f"has no planned sweep '{CELL}'" in capsys.readouterr().err


def test_of_several_sweeps_one_must_be_named(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path / "other", edited(("name: small", "name: twin")))
    assert main(["plan", str(other), "--store", store]) == 0
    capsys.readouterr()
    assert main(["status", "--store", store]) == 2
    assert "give the NAME of one: small, twin" in capsys.readouterr().err
    assert main(["status", "smal", "--store", store]) == 1
    assert "did you mean small?" in capsys.readouterr().err


def test_status_of_cells_has_their_chains_and_of_a_phase_its_jobs(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "small", "mtiny-b100-i0", "--json", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out)["phases"].keys() == {"trunk", "pretrain", "finetune", "evaluate"}
    assert main(["status", "small", "--phase", "evaluate", "--json", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 12


def test_resume_refuses_the_option_that_held_back_nothing(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", "small", "--only", CELL, "--store", store]) == 2
    assert f"Name the cells: `sweep resume small {CELL}`" in capsys.readouterr().err


def test_old_options_do_as_before_and_say_so_once(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, option in (("submit", "--only"), ("resume", "--cells")):
        told = {}
        for words in ([option, CELL], [CELL]):
            code = main([command, "small", *words, "--dry-run", "--json", "--ignore-data", "--store", store])
            printed = capsys.readouterr()
            told[tuple(words)] = (code, printed.out)
            said = [line for line in printed.err.splitlines() if "not needed any more" in line]
            assert len(said) == (option in words)
        assert len(set(told.values())) == 1
