"""`sweep submit` on this machine as a user meets it, with real processes."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from jobs.job import Resources
from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from sweep.cli import main
from tests.jobs import toy
from tests.sweep.toy_commands import IN_A_PROCESS, sweep

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_a_sweep_runs_and_each_end_is_one_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, toy.small_graph())
    assert sweep(store, "submit", "--cpus", "2") == 0
    printed = capsys.readouterr()
    assert printed.out == "toy: 12 of 12 jobs done\n"
    *lines, following = printed.err.splitlines()
    assert len(lines) == 12
    assert following == f"next: `sweep results toy --store {store.root}` writes tables and figures"
    assert re.fullmatch(r"\d\d:\d\d:\d\d  \[1/12\]  done +trunk +trunk trunk1", lines[0])
    assert sweep(store, "submit") == 0
    assert capsys.readouterr().err == f"{following}\n"


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
        "held": [],
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
    assert {key for key, state in states.items() if state is JobState.DONE} == {
        key for key in states if key == "trunk1" or key.startswith("a-")
    }


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["aa"], "sweep toy has no cell or job 'aa'; did you mean a?"),
        (["zzzzzz"], "sweep toy has no cell or job 'zzzzzz'; `sweep list toy` shows its cells"),
        (["--gpus", "2"], "--gpus 2: this machine shows 0 GPUs; ask for that many at most"),
    ],
)
def test_a_wrong_wish_is_one_line(
    store: Store, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    toy.plan(store, [toy.toy_job("1", cells=["a"])])
    assert sweep(store, "submit", *words) == 1
    assert capsys.readouterr().err == f"sweep submit: {error}\n"


def test_the_option_of_before_for_cells_is_told_of_ahead_of_the_error(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.plan(store, [toy.toy_job("1", cells=["a"])])
    assert sweep(store, "submit", "--only", "aa") == 1
    assert capsys.readouterr().err.splitlines() == [
        "sweep submit: --only is not needed any more: `sweep submit toy aa` does the same",
        "sweep submit: sweep toy has no cell or job 'aa'; did you mean a?",
    ]


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
    assert "1 job can never run here; the first, pretrain wide: it needs 99 CPU cores" in capsys.readouterr().err


def test_a_problem_of_the_store_is_told_and_nothing_is_lost(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", fail="full", fail_times=1), toy.toy_job("b", "a")])
    assert sweep(store, "submit") == 1
    printed = capsys.readouterr()
    assert "sweep submit: stopped: pretrain a: OSError: [Errno 28] No space left on device" in printed.err
    assert "nothing is lost" in printed.err
    assert printed.out == "toy: 0 of 2 jobs done, 1 waiting, 1 interrupted\n"
    assert sweep(store, "submit") == 0
