"""One job of each shape goes first, on a real cluster: held by the decision of each tick, with no daemon."""

from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.reconcile.state import JobState
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep

ASKED = Resources(memory_gib=0.25)


def cell(name: str, width: int, **config: Any) -> list[Any]:
    """A pre-training of that width and an evaluation, with nothing in common with other cells."""
    pre = toy.toy_job(f"{name}-pre", cells=[name], resources=ASKED, model={"d": width}, **config)
    return [pre, toy.toy_job(f"{name}-ev", pre.key, phase="evaluate", cells=[name], resources=ASKED)]


def test_a_broken_shape_costs_one_job_and_another_shape_runs_to_its_end(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [job for number in range(4) for job in cell(f"bad{number}", 1, fail="diverged")]
    sound = [job for number in range(4) for job in cell(f"good{number}", 2)]
    toys = ToySweep(slurm, tmp_path, [*broken, *sound], monkeypatch)
    assert toys.sent("submit", "--canary") == (2, 1)  # one of each shape, and no child behind it

    def settled(report: Any) -> bool:
        return bool(report["states"]["done"] == 8 and report["states"]["failed"] == 1)

    reports = toys.ticks_until(settled, seconds=120)
    assert [job.key for job in broken if toys.began(job.key)] == ["bad0-pre"]
    assert all(toys.executions(job.key)["completed"] == 1 for job in sound)
    assert [row["canary"] for row in reports[-1]["held"]] == ["bad0-pre"]
    assert reports[-1]["held"][0]["jobs"] == 3
    told = toys.sweep("status")
    assert "held: the first job of this shape failed: diverged" in told.out
    assert toys.tick()["sent"] == 0
    # released by the name of a cell, that cell alone goes
    assert toys.sweep("limits", "--release", "bad2").code == 0
    assert toys.tick()["sent"] >= 1
    wait_for("the released job to fail", lambda: toys.states()["bad2-pre"] is JobState.FAILED, seconds=60, every=0.3)
    assert [job.key for job in broken if toys.began(job.key)] == ["bad0-pre", "bad2-pre"]


def test_the_others_are_sent_at_the_tick_after_the_first_checkpoint_while_the_first_still_runs(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cell("c0", 1, gate_at=2)  # saves after each step, and stays at its third
    jobs = [*first, *(job for number in range(1, 5) for job in cell(f"c{number}", 1))]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    assert toys.sent("submit", "--canary") == (1, 1)
    toys.ticks_until(lambda report: bool(report["states"]["done"] >= 5), seconds=120)
    assert toys.states()["c0-pre"] is JobState.RUNNING  # the first job has not ended
    assert toys.sweep("status", "--json").json["held"] == []
    toys.open_gate("c0-pre")
    toys.finish(seconds=120)
    toys.assert_as_undisturbed()
