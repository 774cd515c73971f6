"""`sweep submit`, `resume`, `cancel` and `logs` as a user meets them, with real processes."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.local.runner_lock import holding_runner_lock
from jobs.reconcile.state import State
from jobs.store.flock import is_held
from jobs.store.paths import Store
from sweep.cli import main
from tests.jobs import toy

IN_A_PROCESS = (
    "import sys, jobs.local.cluster as local, sweep.cli;"
    f"local.STAGE_PROGRAM = {toy.COUNTING_STAGE!r};sys.exit(sweep.cli.main())"
)
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def _counting_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.local.cluster.STAGE_PROGRAM", toy.COUNTING_STAGE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def sweep(store: Store, command: str, *words: str) -> int:
    return main([command, toy.SWEEP, *words, "--store", str(store.root)])


@contextmanager
def beside(store: Store, command: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own."""
    line = [sys.executable, "-c", IN_A_PROCESS, command, toy.SWEEP, *words, "--store", str(store.root)]
    process = subprocess.Popen(line, cwd=toy.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until_it_works(store: Store, job: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not toy.count(store, job, "step"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sweep_runs_and_each_end_is_one_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, toy.small_graph())
    assert sweep(store, "submit", "--cpus", "2") == 0
    printed = capsys.readouterr()
    assert printed.out == "toy: 12 of 12 jobs done\n"
    lines = printed.err.splitlines()
    assert len(lines) == 12
    assert re.fullmatch(r"\d\d:\d\d:\d\d  \[1/12\]  done +trunk +trunk trunk1", lines[0])
    assert sweep(store, "submit") == 0
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar(store: Store) -> None:
    toy.plan(store, [toy.toy_job("only", step_seconds=0.2)])
    ours, theirs = pty.openpty()
    line = [sys.executable, "-c", IN_A_PROCESS, "submit", toy.SWEEP, "--store", str(store.root)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(line, cwd=toy.ROOT, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4_096):
                shown += piece
        except OSError:  # Linux: the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert "1/1" in shown.decode()
    assert "1 running" in shown.decode()
    assert "━" in shown.decode()


def test_the_outcome_is_available_as_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", fail="data"), toy.toy_job("b", "a"), toy.toy_job("c")])
    assert sweep(store, "submit", "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    states = {state: number for state, number in shown.pop("states").items() if number}
    assert states == {"done": 1, "failed": 1, "blocked": 1}
    assert shown == {
        "format": 1,
        "sweep": "toy",
        "jobs": 3,
        "complete": False,
        "problem": "",
        "stopped_by_signal": 0,
    }


def test_a_dry_run_says_what_would_go_first(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, toy.small_graph())
    assert sweep(store, "submit", "--dry-run") == 0
    assert capsys.readouterr().out == "submit     trunk     trunk1\n"
    assert sweep(store, "submit", "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["actions"] == [{"action": "submit", "key": "trunk1", "phase": "trunk"}]
    assert not store.runs.exists()


def test_only_a_named_cell_and_what_it_needs_is_run(store: Store) -> None:
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--only", "a") == 0
    states = toy.states(store, jobs)
    assert {key for key, state in states.items() if state is State.DONE} == {
        key for key in states if key == "trunk1" or key.startswith("a-")
    }


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--only", "aa"], "sweep toy has no cell or job 'aa'; is it a?"),
        (["--only", "zzzzzz"], "sweep toy has no cell or job 'zzzzzz'"),
        (["--gpus", "2"], "--gpus 2: this machine shows 0 GPUs; ask for that many at most"),
    ],
)
def test_a_wrong_wish_is_one_line(
    store: Store, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    toy.plan(store, [toy.toy_job("1", cells=["a"])])
    assert sweep(store, "submit", *words) == 1
    assert capsys.readouterr().err == f"sweep submit: {error}\n"


@pytest.mark.parametrize("words", [["--cpus", "0"], ["--cpus", "x"], ["--gpus", "-1"]])
def test_a_wrong_number_is_wrong_usage(store: Store, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sweep(store, "submit", *words)
    assert stop.value.code == 2


def test_a_sweep_that_is_not_there_is_told_with_those_that_are(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(store, "submit") == 1
    assert "there is no such folder; give the store with --store DIR" in capsys.readouterr().err
    store.root.mkdir()
    assert sweep(store, "submit") == 1
    assert "holds none; plan one with" in capsys.readouterr().err
    toy.plan(store, [toy.toy_job("a")], sweep="other")
    assert sweep(store, "submit") == 1
    assert "has no planned sweep 'toy'; it holds other" in capsys.readouterr().err
    assert main(["submit", "../toy", "--store", str(store.root)]) == 1
    assert "not a safe name" in capsys.readouterr().err


def test_a_sweep_for_a_cluster_runs_here_only_if_asked(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [toy.toy_job("a"), toy.toy_job("wide", resources=Resources(cpus=99))]
    toy.plan(store, jobs, backend="slurm")
    monkeypatch.setenv("PATH", "/nowhere")
    assert sweep(store, "submit") == 1
    said = capsys.readouterr().err
    assert "Slurm cannot be asked" in said
    assert "run it on this machine with --backend local" in said
    assert sweep(store, "submit", "--backend", "local") == 1
    assert "1 jobs can never run here; the first, pretrain wide: it needs 99 CPU cores" in capsys.readouterr().err


def test_a_problem_of_the_store_is_told_and_nothing_is_lost(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", fail="full", fail_times=1), toy.toy_job("b", "a")])
    assert sweep(store, "submit") == 1
    printed = capsys.readouterr()
    assert "sweep submit: stopped: pretrain a: OSError: [Errno 28] No space left on device" in printed.err
    assert "nothing is lost" in printed.err
    assert printed.out == "toy: 0 of 2 jobs done, 1 waiting, 1 interrupted; see `sweep status toy`\n"
    assert sweep(store, "submit") == 0


def test_resume_gives_failed_jobs_a_new_budget(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [toy.toy_job("a", cells=["x"], fail="data", fail_times=1), toy.toy_job("b", "a", cells=["x"])]
    jobs.append(toy.toy_job("c", cells=["y"], fail="data", fail_times=1))
    toy.plan(store, jobs)
    assert sweep(store, "submit") == 1
    capsys.readouterr()
    assert sweep(store, "resume", "--dry-run") == 0
    assert capsys.readouterr().out == "a\nc\n"
    assert sweep(store, "resume", "--cells", "x") == 0
    assert toy.states(store, jobs) == {"a": State.DONE, "b": State.DONE, "c": State.FAILED}
    assert sweep(store, "resume", "--no-submit") == 0
    assert toy.states(store, jobs)["c"] is State.INTERRUPTED
    assert sweep(store, "submit") == 0


def test_resume_leaves_the_rest_to_a_runner_that_is_at_work(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a")])
    with holding_runner_lock(store, sweep=toy.SWEEP, writer="w"):
        assert sweep(store, "resume") == 0
    assert "the runner that is at work takes them up" in capsys.readouterr().err
    with holding_runner_lock(store, sweep="other", writer="w"):
        assert sweep(store, "resume") == 1
    assert "has a runner already" in capsys.readouterr().err


def test_cancel_lets_running_jobs_save_and_keeps_all_out_until_resumed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [toy.toy_job("a", steps=30, step_seconds=0.03), toy.toy_job("b", "a"), toy.toy_job("c", "b")]
    toy.plan(store, jobs)
    with beside(store, "submit") as runner:
        wait_until_it_works(store, jobs[0])
        assert sweep(store, "cancel") == 0
        assert "3 jobs cancelled, 1 of them were running" in capsys.readouterr().out
        assert not is_held(toy.run_of(store, jobs[0]).lock)
        out, _ = runner.communicate(timeout=PATIENCE_SECONDS)
        assert runner.returncode == 1
        assert "0 of 3 jobs done, 3 cancelled" in out
    assert toy.count(store, jobs[0], "stopped") == 1
    assert sweep(store, "submit") == 1
    assert set(toy.states(store, jobs).values()) == {State.CANCELLED}
    assert sweep(store, "resume") == 0
    assert set(toy.states(store, jobs).values()) == {State.DONE}
    assert toy.count(store, jobs[0], "step") == 30


def test_a_cancelled_cell_leaves_the_others_and_what_they_share(store: Store) -> None:
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    assert sweep(store, "cancel", "b") == 0
    states = toy.states(store, jobs)
    assert {key for key, state in states.items() if state is State.CANCELLED} == {
        key for key in states if key.startswith("b-")
    }
    assert sweep(store, "cancel", "trunk2") == 0
    assert toy.states(store, jobs)["trunk2"] is State.CANCELLED
    assert toy.states(store, jobs)["trunk1"] is State.READY


def test_an_attempt_that_does_not_save_in_time_is_killed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = toy.toy_job("deaf", steps=2, step_seconds=60.0)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        assert sweep(store, "cancel", "--grace", "0.2") == 0
        runner.communicate(timeout=PATIENCE_SECONDS)
    assert "still busy after 0.2 s, killed" in capsys.readouterr().err
    assert toy.states(store, [job]) == {"deaf": State.CANCELLED}


def test_cancel_reaches_an_attempt_whose_supervisor_is_gone(store: Store) -> None:
    job = toy.toy_job("orphan", steps=400, step_seconds=0.05)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        runner.kill()
    start = toy.picture(store, [job]).evidence["orphan"].last
    assert start is not None
    os.kill(start.start.pid, 9)
    assert sweep(store, "cancel") == 0
    assert toy.count(store, job, "stopped") == 1


def test_logs_shows_the_job_that_matters(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        toy.toy_job("a", cells=["x"]),
        toy.toy_job("b", cells=["y"], fail="raise"),
        toy.toy_job("c", "a", cells=["x"]),
    ]
    toy.plan(store, jobs)
    assert sweep(store, "logs") == 1
    assert "none of these 3 jobs has been started" in capsys.readouterr().err
    sweep(store, "submit")
    capsys.readouterr()
    assert sweep(store, "logs") == 0  # the failed one
    printed = capsys.readouterr()
    assert "RuntimeError" in printed.out
    assert printed.err == f"{toy.run_of(store, jobs[1]).attempt('local-0002').log}\n"
    assert sweep(store, "logs", "a", "-f") == 0
    assert capsys.readouterr().out == "starts at step 0\n"
    assert sweep(store, "logs", "x", "--path") == 0  # the one that started last
    assert capsys.readouterr().out == f"{toy.run_of(store, jobs[2]).attempt('local-0001').log}\n"


def test_logs_follows_a_live_attempt_to_its_end(store: Store) -> None:
    job = toy.toy_job("a", steps=20, step_seconds=0.03, last_words="the last words")
    toy.plan(store, [job])
    with beside(store, "submit"):
        wait_until_it_works(store, job)
        with beside(store, "logs", "a", "--follow") as reader:
            out, _ = reader.communicate(timeout=PATIENCE_SECONDS)
    assert out == "starts at step 0\nthe last words\n"
