"""The line that ends a command."""

import os
from pathlib import Path

import pytest

from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from sweep.arguments import find_default_store
from sweep.next_step import NextStep
from sweep.state_words import STATE_MEANINGS
from tests.jobs import toy


@pytest.mark.parametrize(
    ("states", "command"),
    [
        ({"done": 3}, "sweep results demo"),
        ({"done": 2, "failed": 1, "blocked": 2, "running": 1}, "sweep resume demo"),
        ({"cancelled": 2, "done": 1}, "sweep resume demo"),
        ({"running": 1, "cancelled": 1}, "sweep logs demo -f"),
        ({"ready": 1, "waiting": 5}, "sweep submit demo"),
        ({"interrupted": 1}, "sweep submit demo"),
        ({"unknown": 1, "ready": 1}, "sweep status demo --fresh"),
    ],
)
def test_the_states_say_what_comes_next(
    states: dict[str, int], command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEP_STORE", raising=False)
    assert NextStep(Path("store")).suggest_for_states("demo", states).startswith(f"next: `{command}` ")


def test_what_is_written_is_not_suggested_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWEEP_STORE", raising=False)
    store, job = Store(Path("store")), toy.toy_job("a")
    results = store.locate_sweep("demo").results
    files = [store.locate_run(job.stage, "a").result, results / "results.parquet", results / "figures" / "losses.png",
             results / "report.html"]  # fmt: skip
    steps = ["results demo", "results demo", "report demo", "list demo"]
    for moment, (path, command) in enumerate(zip(files, steps, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (1_000 + moment, 1_000 + moment))
        told = NextStep(Path("store")).suggest_for_states("demo", {"done": 1}, jobs=[job])
        assert told.startswith(f"next: `sweep {command}` ")
    os.utime(files[0], (2_000, 2_000))  # a job has run again
    told = NextStep(Path("store")).suggest_for_states("demo", {"done": 1}, jobs=[job])
    assert told.startswith("next: `sweep results demo` ")


def test_a_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    told = NextStep(tmp_path / "a store").format_command("resume", "demo", "m1m-*")
    assert told == f"`sweep resume demo 'm1m-*' --store '{tmp_path}/a store'`"


def test_every_state_is_explained() -> None:
    assert list(STATE_MEANINGS) == [state.value for state in JobState]


def test_the_store_above_is_found_and_only_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SWEEP_STORE", raising=False)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_default_store() == Path("store")
    (tmp_path / "store").mkdir()
    assert find_default_store() == Path("store")  # a folder of that name that holds no sweeps
    (tmp_path / "store" / "sweeps").mkdir()
    assert find_default_store().resolve() == (tmp_path / "store").resolve()
    (below / "store").mkdir()
    assert find_default_store() == Path("store")
    (below / "store").rmdir()
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert find_default_store() == Path("store")
    monkeypatch.setenv("SWEEP_STORE", "/given")
    assert find_default_store() == Path("/given")
