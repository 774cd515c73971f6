"""`sweep doctor` as a user meets it, without Slurm; tests/jobs/slurm/on_cluster/test_doctor.py is on a real cluster."""

import json
from pathlib import Path

import pytest

from sweep.cli import main
from sweep.kept_limits import update_limits
from sweep.preflight.gate import check_gate
from sweep.stored_sweep import open_sweep
from tests.sweep.small_sweep import edited, written

NAMES = ["clients", "store", "renaming", "exclusive creation", "locking", "clock", "space"]


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.report.doctor.has_slurm", lambda: False)


def test_a_machine_without_slurm_is_told_so_in_a_line_and_the_store_is_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--store", str(tmp_path / "store"), "--node-test"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["note", *["ok"] * 6]
    assert "no Slurm on this machine" in lines[0]
    assert printed.err.startswith("7 findings, 0 of them problems\nnext: ")
    assert not (tmp_path / "store").exists()


def accept_inputs(root: Path) -> None:
    """As `sweep submit small --ignore-data`, and sends nothing."""
    stored = open_sweep(root, "small")
    report = check_gate(stored, {job.key for job in stored.manifest.jobs}, ())
    update_limits(stored.paths.limits, {"ignored_inputs": tuple(problem.name for problem in report.problems)})


def test_what_submit_would_refuse_of_a_sweeps_inputs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = written(tmp_path, edited()), str(tmp_path / "store")
    assert main(["plan", str(path), "--store", store]) == 0
    capsys.readouterr()
    assert main(["doctor", "small", "--store", store]) == 1
    printed = capsys.readouterr()
    [words] = [line for line in printed.out.splitlines() if "data.words: " in line]
    assert words.startswith("problem  inputs")
    assert "not there; correct the path" in words
    assert words.endswith("or accept it: `sweep submit small --ignore-data`")
    assert not (tmp_path / "store" / "inspections").exists()  # it only looks
    accept_inputs(tmp_path / "store")
    assert main(["doctor", "small", "--store", store]) == 0


@pytest.mark.parametrize(("backend", "code"), [("local", 0), ("slurm", 1)])
def test_only_a_sweep_that_needs_slurm_is_stopped_by_its_absence(
    backend: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = written(tmp_path, edited(("backend: local", f"backend: {backend}"))), str(tmp_path / "store")
    assert main(["plan", str(path), "--store", store]) == 0
    accept_inputs(tmp_path / "store")
    capsys.readouterr()
    assert main(["doctor", "small", "--store", store, "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["sweep"], report["store"], report["problems"]) == (1, "small", store, code)
    first = {"local": "machine"}.get(backend, "clients")
    assert [each["check"] for each in report["checks"]] == [first, "inputs", *NAMES[1:]]
    assert report["checks"][0].keys() == {"check", "verdict", "text", "advice"}
    assert "the plan still keeps" in report["checks"][-1]["text"]


def test_a_sweep_that_was_not_planned_is_a_user_level_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "small", "--store", str(tmp_path)]) == 1
    assert "has no planned sweep 'small'" in capsys.readouterr().err
