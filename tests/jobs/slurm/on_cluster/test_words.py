"""What a person reads about odd moments of a real cluster: suspended, held, cancelled before the start, odd stores."""

from pathlib import Path

import pytest

from jobs.reconcile.state import JobState
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, drain


def test_a_suspended_job_is_called_so(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    slurm.output("scontrol", "suspend", toys.ids()["k"][0])
    assert "1 running: suspended" in toys.sweep("status", "--fresh").out
    slurm.output("scontrol", "resume", toys.ids()["k"][0])
    toys.open_gate("k")
    toys.finish()


def test_a_held_job_has_no_time_left(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k")], monkeypatch)
    toys.sent()
    slurm.output("scontrol", "hold", toys.ids()["k"][0])
    told = toys.sweep("status", "--fresh")
    assert "1 queued: held by" in told.out
    assert "no estimate yet: 1 job is held and does not start by itself" in told.out


def test_a_job_that_was_cancelled_before_it_started_had_no_attempt_and_no_log(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k")], monkeypatch)
    toys.sent()
    slurm.output("scancel", toys.ids()["k"][0].partition("_")[0])
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 1)
    told = toys.sweep("status", "--fresh")
    assert "pretrain k  cancelled before it started" in told.out
    assert "log:" not in told.out


def test_a_store_whose_path_has_a_backslash_is_refused_and_not_sent_to_its_ruin(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path / "back\\slash", [toy.toy_job("k")], monkeypatch)
    told = toys.sweep("submit")
    assert (told.code, toys.queue()) == (1, {})
    assert "path with a backslash" in told.err
    assert "path with a backslash" in toys.sweep("doctor").out


def test_a_user_without_a_name_sees_and_sends_like_others(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(name) for name in "ab"], monkeypatch)
    toys.sent("submit", "--max-queued", "1")
    monkeypatch.setattr("sweep.submit.slurm.read_user_name", lambda: "54321")
    monkeypatch.setattr("jobs.slurm.query.read_user_name", lambda: "54321")
    assert sorted(toys.states().values()) == [JobState.QUEUED, JobState.READY]
    assert toys.sweep("cancel").code == 0
    assert toys.queue() == {}
