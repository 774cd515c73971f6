"""Every second that a sweep ever took is in its hours, by Slurm's accounting: whatever the plan and the clocks say."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from jobs.clock import Clock
from jobs.job import Resources
from jobs.reconcile.state import JobState
from jobs.slurm.timeouts import SlurmTimeouts
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes.sbatch_wrapper import wrap_sbatch
from tests.slurm_lab.late_accounting import late_accounting
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep

GPUS = Resources(gpus_per_node=1, gpu_type="a100", memory_gib=0.25, time_minutes=10)
HOURS_APART = 3


def seconds_by_sacct(lab: Lab, ids: Collection[str]) -> int:
    """GPU-seconds of these tasks, by nothing but the text of sacct."""
    text = lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(ids), "-o", "ElapsedRaw,AllocTRES")
    lines = [line.split("|") for line in text.splitlines()]
    gpus = [[part for part in resources.split(",") if part.startswith("gres/gpu=")] for _, resources in lines]
    return sum(
        int(elapsed) * int(found[0].partition("=")[2]) for (elapsed, _), found in zip(lines, gpus, strict=True) if found
    )


def gpu_seconds(toys: ToySweep) -> float:
    """By the tables."""
    rows = write_tables(open_sweep(toys.store.root, toy.SWEEP)).jobs.to_pylist()
    assert {row["hours_source"] for row in rows} == {"slurm"}
    assert {row["hours_remark"] for row in rows} == {None}
    return round(3600 * sum(float(row["used_gpu_hours"] + row["wasted_gpu_hours"]) for row in rows), 3)


def all_tasks(toys: ToySweep) -> list[str]:
    return [task for tasks in toys.ids().values() for task in tasks]


def settle(toys: ToySweep) -> None:
    """sacct has every end."""

    def settled() -> bool:
        tasks = all_tasks(toys)
        text = toys.lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(tasks), "-o", "JobID,State,End")
        rows = [line.split("|") for line in text.splitlines()]
        over = all(state != "RUNNING" and end != "Unknown" for _, state, end in rows)
        return not toys.queue() and over and {job for job, _, _ in rows} == set(tasks)

    wait_for("sacct to have heard of every end", settled, seconds=30)
    toys.tick()  # a job is done by its result; its row in sacct may come later, and the next round notes it


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "failed"])
def test_hours_of_jobs_that_left_the_plan_are_counted(
    finished: bool, slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {} if finished else {"fail": "diverged", "fail_at": 5}
    dropped = toy.toy_job("dropped", resources=GPUS, steps=6, step_seconds=0.3, **how)
    jobs = [toy.toy_job("kept", resources=GPUS, steps=2, step_seconds=0.5), dropped]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.ticks_until(lambda report: report["states"]["done"] + report["states"]["failed"] == 2)
    settle(toys)
    tasks = all_tasks(toys)
    toy.plan(toys.store, jobs[:1], backend="slurm")
    expected = seconds_by_sacct(slurm, tasks)
    assert gpu_seconds(toys) == expected > seconds_by_sacct(slurm, toys.ids()["kept"]) > 0
    rows = {row["key"]: row for row in write_tables(open_sweep(toys.store.root, toy.SWEEP)).jobs.to_pylist()}
    assert (rows["dropped"]["state"], rows["dropped"]["in_plan"], rows["kept"]["in_plan"]) == ("left", False, True)
    printed = toys.sweep("results", "--no-figures").out
    (line,) = [line for line in printed.splitlines() if line.startswith("left the plan")]
    assert "0/1" in line
    assert "1 job left the plan after" in toys.sweep("status", "--fresh").out
    told = toys.sweep("submit", "--budget-a100-hours", "0.0001")
    assert told.code == 0  # nothing is left to send
    assert "1 job left the plan after" in told.err
    assert "0.00 left, which is" in told.err


@pytest.mark.parametrize("hours", [HOURS_APART, -HOURS_APART])
def test_a_clock_that_is_hours_off_changes_no_hours(
    hours: int, slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_clock(hours, monkeypatch)
    jobs = [
        toy.toy_job("a", resources=GPUS, steps=4, step_seconds=0.5),
        toy.toy_job("b", resources=GPUS, steps=4, step_seconds=0.5, fail="kill", fail_at=2, fail_times=1),
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    toys.finish()
    settle(toys)
    assert gpu_seconds(toys) == seconds_by_sacct(slurm, all_tasks(toys)) > 0
    toys.assert_as_undisturbed()


def test_a_chain_goes_out_once_by_a_clock_that_is_ahead(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are as old as the file server says: a child that still waits for its parent's end is not sent anew."""
    shift_clock(HOURS_APART, monkeypatch)
    jobs = [toy.toy_job("a"), toy.toy_job("b", "a", phase="finetune")]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    wait_for("the parent's result", toys.store.locate_run("pretrain", "a").result.exists, seconds=30)
    assert sum(report["sent"] for report in toys.finish()) == 0
    toys.assert_as_undisturbed()


@pytest.mark.parametrize("hours", [HOURS_APART, -HOURS_APART])
def test_a_person_who_cancels_is_obeyed_by_a_clock_that_is_hours_off(
    hours: int, slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_clock(hours, monkeypatch)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    with late_accounting(slurm.layout):
        slurm.output("scancel", toys.ids()["k"][0])
        toys.wait_until_queue_is_empty()
        late_enough = time.monotonic() + 3 * SlurmTimeouts.from_environment().missing_job_s
        while time.monotonic() < late_enough:
            assert toys.tick()["sent"] == 0
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 1)
    assert toys.tick()["sent"] == 0
    toys.wait_state("k", JobState.CANCELLED)


def shift_clock(hours: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this machine, as far as our commands go by it; Slurm's daemons and the jobs go by the true one."""
    monkeypatch.setattr(Clock, "now", lambda _clock: time.time() + 3600 * hours)


@pytest.mark.parametrize("remembered", [True, False], ids=["remembered", "forgotten"])
def test_a_job_whose_sbatch_gave_no_answer_and_that_ended_before_sacct_heard_of_it_is_counted(
    remembered: bool, slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller tells of it as long as it remembers the job; after that, the row that comes late is looked for."""
    wrapper = wrap_sbatch(tmp_path, monkeypatch)
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", resources=GPUS, steps=4, step_seconds=0.5)], monkeypatch)
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=4 doubt=6 absent=4 look_again=1 cache=0 pace=0")
    if not remembered:
        slurm.conf("MinJobAge=2")
    with late_accounting(slurm.layout):
        wrapper.lose_the_next_answer()
        assert toys.sweep("submit").code == 1
        wait_for("the job to be done", lambda: toys.states()["k"] is JobState.DONE)
        (task,) = [line for line in wrapper.answer.split() if line]
        if not remembered:
            known = ("squeue", "-h", "-t", "all", "-o", "%i", "-j", task)
            wait_for("the controller to forget it", lambda: not slurm.run(*known).stdout.strip(), seconds=90)
        told = f"{task}_0" if remembered else ""

        def is_settled() -> bool:
            toys.tick()
            (batch,) = toys.notes().batches.values()
            return bool(batch.id or batch.not_submitted_at)

        wait_for("the batch to be found or given up", is_settled, seconds=60, every=0.5)
        assert toys.ids()["k"] == [told][: bool(told)]
    rows = ("sacct", "-n", "-P", "-X", "-j", task, "-o", "End")
    wait_for("sacct to have caught up", lambda: slurm.run(*rows).stdout.strip() not in {"", "Unknown"}, seconds=60)
    toys.tick()
    assert gpu_seconds(toys) == seconds_by_sacct(slurm, [task]) > 0
    assert (toys.executions("k")["begin"], wrapper.calls) == (1, 1)
