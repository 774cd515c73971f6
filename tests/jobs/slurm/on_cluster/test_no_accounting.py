"""A cluster that keeps no accounting: a person's scancel stands, and hours say that they are not Slurm's."""

from pathlib import Path

import pytest

from jobs.job import Resources
from jobs.reconcile.state import JobState
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep, drain

GPUS = Resources(gpus_per_node=1, gpu_type="a100", memory_gib=0.25, time_minutes=10)


def assert_left_alone(toys: ToySweep) -> None:
    assert [toys.tick()["sent"] for _ in range(2)] == [0, 0]
    toys.wait_until_queue_is_empty()


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "running"])
def test_a_scancel_that_the_controller_remembers_is_obeyed(
    begun: bool, slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = slurm_without_accounting
    if not begun:
        drain(lab)
    other = Resources(cpus=2, memory_gib=0.25)  # an array of its own: of a waiting array a cancelled task is forgotten
    jobs = [toy.toy_job("k", gate_at=2), toy.toy_job("other", gate_at=2, resources=other)]
    toys = ToySweep(lab, tmp_path, jobs, monkeypatch)
    toys.sent()
    if begun:
        wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    lab.output("scancel", toys.ids()["k"][0])
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 1)
    assert [toys.tick()["sent"] for _ in range(2)] == [0, 0]
    assert len(toys.queue()) == 1
    (row,) = toys.sweep("status", "--fresh", "--json").json["trouble"]
    assert (row["key"], row["class"], row["message"]) == ("k", "cancelled", "cancelled with scancel")


@pytest.mark.timeout(2_500)
@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "running"])
def test_an_end_that_the_controller_has_forgotten_is_asked_about(
    begun: bool, slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = slurm_without_accounting
    lab.conf("MinJobAge=2")
    if not begun:
        drain(lab)
    toys = ToySweep(lab, tmp_path, [toy.toy_job("k", gate_at=2), toy.toy_job("l", gate_at=2)], monkeypatch)
    toys.sent()
    if begun:
        wait_for("the jobs to be at work", lambda: all(toys.executions(key)["step"] > 1 for key in "kl"))
    for key in "kl":
        lab.output("scancel", toys.ids()[key][0])
    wait_for("the controller to forget them", lambda: toys.queue() == {} and not remembered(toys), seconds=180)
    words = "2 jobs are out of the queue, and it is not known whether a person cancelled them"
    wait_for("the question", lambda: words in toys.sweep("tick", "--json", "--no-results").err, every=0.3)
    assert toys.tick()["states"]["unknown"] == 2
    assert_left_alone(toys)
    status = toys.sweep("status", "--fresh").out
    assert "there is no accounting on this cluster): `sweep resume toy " in status
    assert "sends them again, `sweep cancel toy " in status
    assert toys.sweep("cancel", "k").code == 0
    toys.wait_state("k", JobState.CANCELLED)
    toys.open_gate("l")
    if not begun:
        lab.wait_ready()
    assert toys.sweep("resume", "l").code == 0
    toys.ticks_until(lambda report: report["states"]["done"] == 1)
    assert toys.states() == {"k": JobState.CANCELLED, "l": JobState.DONE}


def remembered(toys: ToySweep) -> bool:
    return any(toys.lab.job_states(task) for tasks in toys.ids().values() for task in tasks)


@pytest.mark.timeout(2_500)
def test_an_end_of_its_own_is_known_from_the_attempt_alone(
    slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = slurm_without_accounting
    lab.conf("MinJobAge=2")
    jobs = [toy.toy_job("k", fail="kill", fail_at=1, fail_times=1), toy.toy_job("nan", fail="diverged", fail_at=1)]
    toys = ToySweep(lab, tmp_path, jobs, monkeypatch)
    toys.sent()
    wait_for("the controller to forget them", lambda: toys.queue() == {} and not remembered(toys), seconds=180)
    toys.ticks_until(lambda report: (report["states"]["done"], report["states"]["failed"]) == (1, 1))


def test_printed_hours_say_that_they_are_not_slurms(
    slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm_without_accounting, tmp_path, [toy.toy_job("k", resources=GPUS, steps=2)], monkeypatch)
    toys.sent()
    toys.finish()
    printed = toys.sweep("results", "--no-figures").out
    assert "~ Hours of 1 job are not Slurm's: there is no accounting on this cluster." in printed
    assert "~" in next(line for line in printed.splitlines() if line.startswith("all"))
