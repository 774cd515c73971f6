"""The command line as a user meets it."""

import argparse
import ast
import dataclasses
import logging
import re
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from jobs.store.paths import Store
from sweep.cli import COMMANDS, build_parser, log_to_stderr, main
from sweep.options import read_options
from sweep.plan.new_plan import make_plan, store_plan


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert "example" in printed, f"sweep {name} --help shows no example"
        assert "--store" in printed


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert set(COMMANDS) <= {line.split()[0] for line in lines if line.startswith("    ")}


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plam"])
    assert stop.value.code == 2
    assert "plam" in capsys.readouterr().err


def test_no_command_prints_the_help_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands" in capsys.readouterr().err


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_an_expected_error_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tmp_path_factory.mktemp("empty")
    assert main(["status", "nosuch", "--store", str(store)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "nosuch" in printed.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)


def test_a_closed_pipe_is_no_traceback() -> None:
    writer = subprocess.Popen(
        [sys.executable, "-m", "sweep", "completion", "bash"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    errors = writer.stderr.read().decode()
    writer.wait()
    writer.stderr.close()
    assert "Traceback" not in errors


def test_the_parser_can_be_built_for_one_command() -> None:
    assert build_parser(["completion"]).parse_args(["completion", "zsh"]).shell == "zsh"


def list_command_parsers() -> list[tuple[str, argparse.ArgumentParser]]:
    """(words, parser) of every command, those of `sweep data` too."""

    def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
        actions = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
        return dict(actions[0].choices) if actions else {}

    found = []
    for name, command in subparsers(build_parser()).items():
        parts = subparsers(command)
        found += [(f"{name} {part}", each) for part, each in parts.items()] if parts else [(name, command)]
    return found


@pytest.mark.parametrize(("words", "parser"), [pytest.param(*each, id=each[0]) for each in list_command_parsers()])
def test_options_of_a_command_have_a_field_for_each_argument(words: str, parser: argparse.ArgumentParser) -> None:
    fields = dataclasses.fields(parser.get_default("module").OPTIONS)
    arguments = {action.dest for action in parser._actions} - {"help", "verbose"}
    assert arguments <= {field.name for field in fields}, words
    assert {field.name for field in fields if field.default is dataclasses.MISSING} <= arguments, words


EXAMPLES = [
    "plan manifests/demo.yaml --gpus 8 --diff",
    "plan manifests/demo.yaml",
    "plan manifests/demo.yaml --forecast",
    "doctor",
    "doctor paper --node-test --wait 5",
    "submit demo a b --backend slurm --pace 0.5 --max-queued 3 --budget-a100-hours 2",
    "submit demo --only a b",
    "submit demo --cpus 2 --gpus 0 --dry-run --ignore-data",
    "tick demo a --no-results --json",
    "list demo a b --json",
    "list",
    "status",
    "limits demo --max-queued 3 --budget-a100-hours 2.5 --only a b --pace 1 --backend slurm --json",
    "limits demo --max-queued none --budget-a100-hours none --only all --pace none --backend none --ignore-data none",
    "status demo --all --fresh",
    "forecast demo a --gpus 8 --cores 4 --max-queued 3 --wait-minutes 2.5 --tick-minutes 5 --draws 9 --seed 2 --json",
    "forecast demo --failures 2.5 --preemptions 0.5 --without a --without b",
    "resume demo a b --no-submit --phase evaluate",
    "resume demo --cells a b --no-submit",
    "cancel demo a b --grace 2.5",
    "logs demo a --phase pretrain -f",
    "results demo --csv --top 3",
    "explain demo a b",
    "explain a --sweep demo",
    "export demo a --out x --epochs 2 --dtype bfloat16",
    "export demo --index --out x",
    "data demo --seed 3",
    "data text a b --tokenizer t --out x --workers 2",
    "data check a b --kind text --tokenizer t --context 8 --workers 2",
    "data check a.yaml --samples all --seed 2",
    "completion bash",
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_field_of_the_options_has_its_declared_type(line: str) -> None:
    given = build_parser().parse_args(line.split())
    options = read_options(given.module.OPTIONS, given)
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        assert is_instance_of(getattr(options, field.name), hints[field.name]), field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.store = Path()


def is_instance_of(value: object, hint: Any) -> bool:
    """Whether a value has a declared type: a class, an optional one, or a tuple of one."""
    if isinstance(hint, types.UnionType):
        return any(is_instance_of(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(is_instance_of(each, typing.get_args(hint)[0]) for each in value)
    return type(value) is hint or (isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, hint))


def test_the_store_may_stand_before_or_behind_the_part_of_data() -> None:
    for line in ("data --store x demo", "data demo --store x"):
        given = build_parser().parse_args(line.split())
        assert read_options(given.module.OPTIONS, given).store == Path("x")


@pytest.fixture
def planned_store(tmp_path: Path) -> Path:
    store = Store(tmp_path / "store")
    store_plan(make_plan(Path("manifests/demo.yaml"), store), store)
    return store.root


def test_verbose_logs_to_stderr_and_leaves_stdout_as_it_is(
    planned_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["explain", "m1m-b0-i0-c0-x1", "--store", str(planned_store)]
    assert main(line) == 0
    quiet = capsys.readouterr()
    assert quiet.err.startswith("next: `sweep submit demo ")
    assert len(quiet.err.splitlines()) == 1
    for given in (["-v", *line], [*line, "-vv"]):
        assert main(given) == 0
        printed = capsys.readouterr()
        assert printed.out == quiet.out
        assert re.search(r"^[\d:.]+ INFO sweep\.plan\.manifest: .*/demo/manifest\.jsonl: read, ", printed.err, re.M)
    assert logging.getLogger("sweep").handlers == []


def test_debug_is_shown_from_the_second_v_on(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, shown in ((0, ["a warning"]), (1, ["a warning", "news"]), (2, ["a warning", "news", "detail"])):
        with log_to_stderr(verbose):
            logger = logging.getLogger("jobs.somewhere")
            logger.warning("a warning")
            logger.info("news")
            logger.debug("detail")
        assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == shown


def test_a_log_line_is_printable_and_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr(1):
        logging.getLogger("sweep.x").info("%s", "evil\x1b[2J\nname\r\u202e")
    printed = capsys.readouterr().err
    assert printed.endswith("evil\\u001b[2J name\\u000d\\u202e\n")
    assert len(printed.splitlines()) == 1


MAY_PRINT = {
    "jobs/attempt/__main__.py", "jobs/attempt/finish.py", "jobs/attempt/rank.py",  # into the log of their job
    "sweep/cli.py", "sweep/submit/local.py", "sweep/submit/report.py", "sweep/submit/slurm.py",
    "sweep/watch/session.py",  # once, after the view has left the terminal
}  # fmt: skip


def test_only_the_edge_prints() -> None:
    root = Path(__file__).parents[2]
    printing = {
        str(path.relative_to(root))
        for package in ("sweep", "jobs")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert {path for path in printing if not path.startswith("sweep/commands/")} <= MAY_PRINT
