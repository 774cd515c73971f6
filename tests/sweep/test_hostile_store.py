"""What a store may hold that nobody of ours wrote: every command ends at once, in one line or with what it can read."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.store.paths import Store
from sweep.cli import main
from tests.sweep.small_sweep import SMALL, written
from tests.sweep.synthetic_store import Grid, toy

NAME = "toy"
SWEEP = f"sweeps/{NAME}"
EVENT = {"event": "started", "key": "k", "time": 1.0, "attempt": "a1"}
INTENT = {"batch": "sw-0123456789ab-pretrain-toy", "what": "intent", "time": 1.0, "phase": "pretrain", "tasks": {}}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of one cell and one fine-tune."""
    folder = tmp_path_factory.mktemp("pattern") / "store"
    toy(folder, Grid(branches=(0,), shares=(0.1,), epochs=(1,)))
    ledger = Store(folder).locate_sweep(NAME).ledger
    ledger.mkdir()
    (ledger / "w-here-1-1.jsonl").write_text(json.dumps(EVENT) + "\n")
    return folder


@pytest.fixture
def store(pattern: Path, tmp_path: Path) -> Store:
    shutil.copytree(pattern, tmp_path / "store")
    return Store(tmp_path / "store")


def find_run(store: Store, stage: str) -> Path:
    (run,) = (store.runs / stage).iterdir()
    return run


COMMANDS = (
    ["status", NAME],
    ["explain", "2m-b0-i10-dense-s0"],
    ["logs", NAME],
    ["submit", NAME, "--dry-run", "--cpus", "1"],
    ["results", NAME, "--no-figures"],
    ["forecast", NAME, "--draws", "3"],
)


def run_all(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[int, str]]:
    """Exit code and what was said, by command. Whatever escapes a command fails the test."""
    found = {}
    for words in COMMANDS:
        code = main([*words, "--store", str(store.root)])
        said = capsys.readouterr()
        found[" ".join(words)] = code, said.out + said.err
        assert code in {0, 1}, words
        assert code == 0 or said.err or words[0] == "status", words
    return found


FILES = (
    f"{SWEEP}/manifest.jsonl",
    f"{SWEEP}/manifest.previous.jsonl",
    f"{SWEEP}/ledger/w-x-1-1.jsonl",
    f"{SWEEP}/limits.json",
    f"{SWEEP}/checked-results.txt",
    f"{SWEEP}/refusals.json",
    "local-runner.lock",
    "RUN/result.json",
    "RUN/job.json",
    "RUN/lock",
    "RUN/metrics.jsonl",
    "RUN/attempts/a1/start.json",
    "RUN/attempts/a1/exit.json",
    "RUN/attempts/a1/log.txt",
    "RUN/checkpoints",
)


def make_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, make_socket], ids=["pipe", "folder", "socket"])
@pytest.mark.parametrize("name", FILES)
def test_a_special_file_in_a_files_place_hangs_no_command(
    store: Store, name: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.root / name.replace("RUN", str(find_run(store, "finetune").relative_to(store.root)))
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith("result.json"):  # only of an unfinished job are all files read
        (path.parents[name.partition("RUN/")[2].count("/")] / "result.json").unlink(missing_ok=True)
    make(path)
    found = run_all(store, capsys)
    if name in {f"{SWEEP}/manifest.jsonl", f"{SWEEP}/limits.json", "RUN/result.json"}:
        code, said = found[f"status {NAME}"]
        assert "no regular file" in said
        assert code == 1 or name == "RUN/result.json"


@pytest.mark.timeout(300)
def test_a_pipe_in_a_sweep_files_place_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "sweep.yaml")
    assert main(["plan", str(tmp_path / "sweep.yaml"), "--store", str(tmp_path / "store")]) == 1
    assert capsys.readouterr().err == (
        f"sweep plan: {tmp_path}/sweep.yaml: cannot be read: is a named pipe, and no regular file\n"
    )


DEEP = "[" * 100_000
LARGE = 10**400
ODD: list[Any] = [None, True, LARGE, 1e300, "\ud800", "..", "²", [[]]]


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("content", [DEEP, "null", "{}", "\x00" * 50])
def test_content_that_is_no_record_of_ours_is_told_or_passed_over(
    store: Store, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.root / name.replace("RUN", str(find_run(store, "finetune").relative_to(store.root)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    run_all(store, capsys)


def replace_each_value(content: Any) -> list[tuple[str, Any]]:
    """The content with one value of it replaced, for each value and each odd one."""
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        found += [(f"{name}={odd!r:.20}", {**content, name: odd}) for odd in ODD]
        if isinstance(value, dict):
            found += [(f"{name}.{way}", {**content, name: part}) for way, part in replace_each_value(value)]
    return found


@pytest.mark.parametrize("name", ["start.json", "exit.json"])
def test_a_record_of_wrong_types_is_torn(store: Store, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = find_run(store, "finetune")
    (run / "result.json").unlink()
    path = run / "attempts" / "a1" / name
    content = json.loads(path.read_bytes())
    for number, (_, changed) in enumerate(replace_each_value(content)):
        path.write_text(json.dumps(changed))
        assert main([*COMMANDS[number % 3], "--store", str(store.root)]) in {0, 1}
    capsys.readouterr()


def test_a_line_of_a_ledger_with_wrong_types_is_passed_over(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = store.locate_sweep(NAME).ledger / "w-here-1-1.jsonl"
    lines = [changed for content in (EVENT, INTENT) for _, changed in replace_each_value(content)]
    lines += [{**INTENT, "tasks": {odd: "k"}} for odd in ("²", "9" * 5_000, "-1", "x")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["limits", NAME, "--store", str(store.root)]) == 0
    assert main(["submit", NAME, "--dry-run", "--cpus", "1", "--store", str(store.root)]) in {0, 1}
    assert "Traceback" not in capsys.readouterr().err


def test_every_value_of_a_manifest_is_checked_and_the_plan_can_be_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that names keys or cells which it does not hold."""
    file, root = written(tmp_path, SMALL), str(tmp_path / "store")
    assert main(["plan", str(file), "--store", root]) == 0
    path = Store(Path(root)).locate_sweep("small").manifest
    whole = path.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    places = [0, 1, next(place for place, line in enumerate(lines) if line["record"] == "job")]
    damaged = [(place, changed) for place in places for _, changed in replace_each_value(lines[place])]
    chain = lines[1]["chains"][0]
    damaged += [(1, {**lines[1], "chains": [{**chain, "evaluate": "gone"}]}), (1, {**lines[1], "pretrain": "gone"})]
    damaged += [(places[2], {**lines[places[2]], "cells": ["gone"]})]
    for number, (place, changed) in enumerate(damaged):
        path.write_text("".join(json.dumps(changed if at == place else line) + "\n" for at, line in enumerate(lines)))
        words = ["status", "small"] if number % 2 else ["explain", "mtiny-b0-i0-c0-x1", "--sweep", "small"]
        assert main([*words, "--store", root]) in {0, 1}
        if number % 40 == 0:
            assert main(["plan", str(file), "--store", root, "--replace"]) == 0
            assert path.read_text() == whole
    capsys.readouterr()


def test_a_store_that_may_not_be_listed_is_no_empty_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = os.listdir

    def refuse(path: Any = ".") -> list[str]:
        if Path(os.fspath(path)) == store.sweeps:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    for words in (["explain", "2m-b0-i10-dense-s0"], ["status", "other"]):
        assert main([*words, "--store", str(store.root)]) == 1
        said = capsys.readouterr().err
        assert "permission denied" in said
        assert "holds no" not in said


def test_a_copy_of_a_sweeps_folder_is_passed_over(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(store.locate_sweep(NAME).root, store.sweeps / "toy.bak")
    (store.sweeps / ".nfs0001").mkdir()
    (store.runs / ".snapshot").mkdir()
    assert main(["explain", "2m-b0-i10-dense-s0", "--store", str(store.root)]) == 0
    assert main(["results", NAME, "--no-figures", "--store", str(store.root)]) == 0
    assert main(["status", "toy.bak", "--store", str(store.root)]) == 1
    assert "is the plan of sweep 'toy'" in capsys.readouterr().err


def test_a_copy_of_an_attempts_folder_is_no_attempt(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = find_run(store, "finetune")
    (run / "result.json").unlink()
    for name in ("a1.bak", "local-0001.bak", "local-²", "local-"):
        shutil.copytree(run / "attempts" / "a1", run / "attempts" / name)
    assert main(["explain", run.name, "--json", "--store", str(store.root)]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    (history,) = [job["history"] for job in jobs if job["key"] == run.name]
    assert [each["attempt"] for each in history] == ["a1"]
