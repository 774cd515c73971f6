"""What is asked of Slurm counts as done when the queue shows it: cancellations, withdrawals, restarts by the site."""

from pathlib import Path

import pytest

from jobs.reconcile.state import JobState
from jobs.store.ledger import Event, EventKind, Ledger
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes.failing_program import fail_program
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, drain, resume

AWAY = "scancel: error: Kill job error on job id 7_[0]: Unable to contact slurm controller (connect failure)"


def test_a_cancellation_that_scancel_refuses_is_reported_as_such_and_can_be_repeated(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(name) for name in "abcd"], monkeypatch)
    assert toys.sent()[0] == 4
    scancel = fail_program("scancel", AWAY, tmp_path, monkeypatch)
    told = toys.sweep("cancel")
    assert told.code == 1
    assert told.out == ""
    assert "4 jobs are noted as cancelled here, and 4 of them are still in Slurm's queue" in told.err
    assert "Unable to contact slurm controller" in told.err
    assert "run `sweep cancel toy` again" in told.err
    assert len(toys.queue()) == 4
    scancel.repair()
    told = toys.sweep("cancel")
    assert (told.code, toys.queue()) == (0, {})
    assert "4 jobs cancelled, 0 of them were running" in told.out


def test_a_cancelled_job_that_starts_all_the_same_does_not_train(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(name) for name in "ab"], monkeypatch)
    toys.sent()
    scancel = fail_program("scancel", AWAY, tmp_path, monkeypatch)
    assert toys.sweep("cancel", "a").code == 1
    scancel.repair()
    resume(slurm)
    wait_for("the queue to drain", lambda: toys.queue() == {})
    assert toys.executions("a") == {}
    assert not list(toys.store.root.glob("runs/*/a/attempts/*"))
    toys.wait_state("a", JobState.CANCELLED)
    assert toys.states()["b"] is JobState.DONE
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_a_running_job_that_could_not_be_told_to_stop_is_neither_killed_nor_counted(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    # the nodes of this cluster are this machine, where a job is stopped without Slurm
    monkeypatch.setattr("sweep.submit.cancel.stop_live_attempts", lambda *_: (frozenset(), {}))
    scancel = fail_program("scancel", AWAY, tmp_path, monkeypatch)
    told = toys.sweep("cancel")
    assert told.code == 1
    assert "1 of them is still in Slurm's queue" in told.err
    scancel.repair()
    told = toys.sweep("cancel")
    assert told.code == 0
    assert "1 job cancelled, 1 of them was running" in told.out
    assert toys.executions("k")["stopped"] == 1


def test_a_cancellation_while_the_controller_is_away_says_that_the_queue_was_not_told(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k")], monkeypatch)
    toys.sent()
    slurm.stop("ctld")
    told = toys.sweep("cancel")
    assert told.code == 1
    assert "1 job is noted as cancelled here, and what Slurm's queue holds is not known" in told.err
    assert "--backend local" not in told.err
    slurm.start("ctld")
    slurm.wait_ready()
    drain(slurm)


def test_a_tick_counts_what_left_the_queue_and_not_what_it_wanted_out(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job(name) for name in "abcd"], monkeypatch)
    toys.sent()
    Ledger(toys.store.locate_sweep(toy.SWEEP).ledger).append(
        Event(event=EventKind.CANCELLED, key=job.key) for job in toys.jobs
    )
    scancel = fail_program("scancel", AWAY, tmp_path, monkeypatch)
    told = toys.sweep("tick", "--json", "--no-results")
    assert (told.code, told.json["withdrawn"]) == (1, 0)
    assert "4 jobs did not leave the queue as they should" in told.json["problem"]
    assert "Unable to contact" in told.json["problem"]
    assert not any(batch.withdrawn for batch in toys.notes().batches.values())
    scancel.repair()
    told = toys.sweep("tick", "--json", "--no-results")
    assert (told.code, told.json["withdrawn"], toys.queue()) == (0, 4, {})


@pytest.mark.parametrize("setting", ["RequeueExit=1", "RequeueExitHold=1"])
def test_a_site_that_requeues_by_exit_code_does_not_repeat_what_has_failed_for_good(
    setting: str, slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.conf(setting)
    job = toy.toy_job("k", fail="diverged", fail_at=1)
    toys = ToySweep(slurm, tmp_path, [job], monkeypatch)
    toys.sent()

    def settled() -> bool:
        return toys.queue() == {} or {state for state, _ in toys.queue().values()} == {"SPECIAL_EXIT"}

    wait_for("the first end", lambda: toys.executions("k")["failing"] > 0)
    wait_for("the site to have restarted it, or to hold it", settled, seconds=60)
    assert toys.executions("k")["failing"] == 1
    taken_out = sum(report["withdrawn"] for report in (toys.tick(), toys.tick()))
    assert taken_out == (1 if "Hold" in setting else 0)
    assert (toys.queue(), toys.states()) == ({}, {"k": JobState.FAILED})
    assert "diverged at step 1" in toys.sweep("status", "--fresh").out


def test_a_job_that_the_site_puts_aside_by_exit_code_is_tried_again_as_its_failure_allows(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.conf("RequeueExitHold=1")
    jobs = [toy.toy_job("k", fail="raise", fail_at=1, fail_times=1), toy.toy_job("child", "k")]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    wait_for("the site to hold it", lambda: "SPECIAL_EXIT" in {state for state, _ in toys.queue().values()})
    reports = toys.finish()
    assert sum(report["withdrawn"] for report in reports) == 2
    toys.assert_as_undisturbed()


def test_a_job_that_a_person_puts_aside_stays_there(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    [task] = toys.ids()["k"]
    slurm.output("scontrol", "requeuehold", "state=SpecialExit", task)
    slurm.wait_job(task, "SPECIAL_EXIT", seconds=60)
    assert [toys.tick()["withdrawn"] for _ in range(2)] == [0, 0]
    assert toys.states() == {"k": JobState.QUEUED}
    assert "scontrol release lets it go on" in toys.sweep("status", "--fresh").out
    toys.open_gate("k")
    slurm.output("scontrol", "release", task)
    toys.finish()
    toys.assert_as_undisturbed()
