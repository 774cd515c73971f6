"""`sweep forecast` and `sweep plan --forecast`: from the first plan to the last job, with questions and without."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.store.paths import Store
from sweep.cli import main
from tests.jobs import toy
from tests.sweep.report.test_status import every_state
from tests.sweep.small_sweep import SMALL, edited, written
from tests.sweep.synthetic_store import Grid, finish, plan

__all__ = ["every_state"]
CELL = "mtiny-b50-i0-c0-x1"


@pytest.fixture
def small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """A store with a plan of 32 jobs for this machine, none of which has run."""
    root = str(tmp_path / "store")
    assert main(["plan", str(written(tmp_path, SMALL)), "--store", root]) == 0
    capsys.readouterr()
    return root


@pytest.fixture
def on_slurm(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The same for Slurm, on a machine without Slurm's programs."""
    text = edited(("backend: local", "backend: slurm"))
    root = str(tmp_path / "store")
    assert main(["plan", str(written(tmp_path, text)), "--store", root]) == 0
    monkeypatch.setenv("PATH", str(tmp_path))
    capsys.readouterr()
    return root


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["forecast", *words, "--json"]) == 0
    printed = capsys.readouterr()
    assert "next:" not in printed.err
    return dict(json.loads(printed.out))


def test_it_works_before_anything_was_submitted_and_ends_with_the_next_step(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", "--store", small]) == 0
    printed = capsys.readouterr()
    assert "small: 32 jobs left, 200 draws of how they go" in printed.out
    for words in ("trunk", "evaluate", "all", "cells done", "least time", "speeds as the plan assumes them"):
        assert words in printed.out
    assert printed.err.splitlines()[-1].startswith("next: `sweep status small")
    found = ask(capsys, "small", "--store", small)
    assert list(found["phases"]) == ["trunk", "pretrain", "finetune", "evaluate"]
    assert found["end"]["low"] < found["end"]["middle"] < found["end"]["high"]
    assert len(found["cells"]) == 6
    assert found["longest_chain"]["seconds"] < found["end"]["middle"] - found["now"]
    assert (found["left_out"], found["endless_draws"]) == ([], 0)


def test_equal_seeds_give_equal_spans(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    spans = []
    for seed in ("4", "4", "5"):
        found = ask(capsys, "small", "--seed", seed, "--draws", "40", "--store", small)
        spans.append(round(found["end"]["middle"] - found["now"], 3))
    assert spans[0] == spans[1] != spans[2]


def test_what_ifs_move_the_end_the_right_way(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(*words: str) -> float:
        found = ask(capsys, "small", "--cores", "1", *words, "--store", small)
        return float(found["end"]["middle"] - found["now"])

    usual = measure()
    assert measure("--cores", "8") < usual
    assert measure("--wait-minutes", "30") > usual + 1800
    assert measure("--failures", "50") > usual
    assert measure(CELL) < usual
    assert measure("--without", CELL, "--without", "mtiny-b0-*") < usual


def test_on_one_core_the_core_binds(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "small", "--cores", "1", "--store", small)
    assert found["binding"][0]["name"] == "cores"
    assert found["binding"][0]["saved_seconds"] > 0
    assert "devices: 1 core, as given" in found["basis"]
    found = ask(capsys, "small", "--cores", "1000", "--store", small)
    assert found["binding"] == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["small", "--gpus", "0"], 2, "not a whole number of at least 1"),
        (["small", "--wait-minutes", "-1"], 2, "is not a number from 0"),
        (["small", "--failures", "100"], 2, "is not a percentage from 0 to 99"),
        (["small", "--draws", "none"], 2, "is not a whole number"),
        (["small", "--without", "nothing"], 1, "has no cell or job 'nothing'"),
        (["small", "--without", "x*"], 1, "has no cell like 'x*'"),
        (["small", "mtiny"], 2, "is the beginning of 6 cells"),
        (["smal", CELL], 1, "did you mean small?"),
        (["small", "--max-quoted", "3"], 2, "did you mean --max-queued?"),
        (["small", "--max-queued", "3"], 2, "--max-queued is of Slurm, and small runs on this machine"),
        (["small", "--tick-minutes", "3"], 2, "--tick-minutes is of Slurm, and small runs on this machine"),
    ],
)
def test_bad_words_are_told_in_one_line(
    small: str, words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(["forecast", *words, "--store", small])
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == code
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_finished_sweep_has_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(Store(tmp_path / "store"), Grid(branches=(0,), shares=(0.1,)))
    finish(made)
    root = str(tmp_path / "store")
    found = ask(capsys, "toy", "--store", root)
    assert (found["jobs_left"], found["end"]["middle"], found["binding"]) == (0, found["now"], [])
    assert main(["forecast", "--store", root]) == 0
    assert capsys.readouterr().out == "toy: nothing is left to run\n"


def test_half_way_what_has_run_shows_the_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan(Store(tmp_path / "store"), Grid(branches=(0,), shares=(0.0, 0.1)))
    finish(made, [key for key in made.jobs if made.jobs[key]["cells"][0].startswith("2m-b0-i0")])
    found = ask(capsys, "toy", "--gpus", "4", "--store", str(tmp_path / "store"))
    assert found["jobs_left"] == len(made.jobs) / 2
    assert any(line.startswith("speeds: 7 finished jobs") for line in found["basis"])
    # one job after the other: a run of 360 s, three fine-tunes of 180 s, three evaluations of 36 s
    assert found["end"]["middle"] - found["now"] == pytest.approx(360 + 3 * 180 + 3 * 36, rel=0.1)
    assert found["gpu_hours"]["middle"] == pytest.approx(4 * (360 + 3 * 180 + 3 * 36) / 3600, rel=0.1)


def test_what_has_stopped_is_left_out_and_told(
    every_state: tuple[Store, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = every_state
    found = ask(capsys, toy.SWEEP, "--cores", "2", "--store", str(store.root))
    assert found["jobs_left"] == 6  # running, queued, ready, waiting, interrupted, unknown
    assert found["left_out"] == ["1 blocked, 1 cancelled, 1 failed: nothing of them runs until `sweep resume toy`"]


def test_a_cluster_that_does_not_answer_is_told_and_no_error(on_slurm: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "small", "--store", on_slurm)
    basis = "\n".join(found["basis"])
    assert "limits of the site: not known (Slurm cannot be asked" in basis
    assert "devices: as many as there are jobs for; say how many you get: --gpus N" in basis
    assert "a tick each 10 min" in basis
    usual = found["end"]["middle"] - found["now"]
    capped = ask(capsys, "small", "--max-queued", "1", "--tick-minutes", "30", "--store", on_slurm)
    assert capped["end"]["middle"] - capped["now"] > usual
    # with one job at a time, more room or more ticks are worth most
    assert capped["binding"][0]["name"] in {"--max-queued", "the time between two ticks"}


def test_a_kept_cap_and_kept_cells_hold(on_slurm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "small", "--max-queued", "2", "--only", CELL, "--store", on_slurm]) == 0
    capsys.readouterr()
    found = ask(capsys, "small", "--store", on_slurm)
    assert found["jobs_left"] < 32
    assert "--max-queued" in {each["name"] for each in found["binding"]} or found["binding"]
    freed = ask(capsys, "small", "--max-queued", "100", "--store", on_slurm)
    assert freed["end"]["middle"] - freed["now"] < found["end"]["middle"] - found["now"]


def test_a_plan_is_forecast_with_its_cores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(written(tmp_path, SMALL)), "--store", str(tmp_path / "store"), "--cpus", "1", "--forecast"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "small: 32 jobs left, 200 draws of how they go" in printed.out
    assert printed.err.splitlines()[-1].startswith("next: ")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["forecast"]
    assert found == {**ask(capsys, "small", "--cores", "1", "--store", str(tmp_path / "store")), **found}
    assert found["binding"][0]["name"] == "cores"
    assert main([*words, "--diff"]) == 2
    assert "--forecast is of a stored plan" in capsys.readouterr().err


def test_what_goes_first_is_done_earlier_and_the_forecast_says_so(
    small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = "mtiny-b100-i20-c0-x1"
    before = ask(capsys, "small", "--store", small, "--cores", "1")
    first = ask(capsys, "small", "--store", small, "--cores", "1", "--first", cell)
    assert first["cells"][cell]["middle"] - first["now"] < 0.7 * (before["cells"][cell]["middle"] - before["now"])
    assert any("order: 7 jobs of priority 1, then 25 jobs of priority 0" in line for line in first["basis"])
    assert main(["limits", "small", "--first", cell, "--store", small]) == 0  # what is kept counts, too
    capsys.readouterr()
    assert any(line.endswith(f"(first: {cell})") for line in ask(capsys, "small", "--store", small)["basis"])


def test_the_plan_shows_the_priorities_of_its_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = """\
blocks:
  - name: probe
    priority: 5
    axes: {branch: [100], image_share: [0.2]}
  - name: grid
    axes: {branch: [0, 50], image_share: [0, 0.2]}
"""
    text = SMALL[: SMALL.index("blocks:")] + blocks + "epochs: [1, 2]\n"
    root = str(tmp_path / "store")
    assert main(["plan", str(written(tmp_path, text)), "--store", root]) == 0
    assert "order" in (shown := capsys.readouterr().out)
    assert "by priority of blocks: probe 5, grid 0" in shown
    assert main(["plan", str(written(tmp_path, text)), "--store", root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["priorities"] == {"probe": 5, "grid": 0}
    assert any("of priority 5" in line for line in ask(capsys, "small", "--store", root)["basis"])


def test_it_says_when_a_budget_would_be_passed(small: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "small", "--store", small)
    assert found["overruns"] == []
    assert main(["limits", "small", "--budget-core-hours", "0.001", "--store", small]) == 0
    capsys.readouterr()
    [row] = ask(capsys, "small", "--store", small)["overruns"]
    assert (row["unit"], row["budget"], row["chance"]) == ("core_hours", 0.001, 1)
    assert found["now"] <= row["passed"]["middle"] < found["end"]["high"]
    assert row["total"]["low"] <= row["total"]["middle"] <= row["total"]["high"]
    assert main(["forecast", "small", "--store", small]) == 0
    assert "(100% of the draws pass it)" in capsys.readouterr().out
