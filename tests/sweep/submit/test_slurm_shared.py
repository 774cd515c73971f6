"""Sweeps that share jobs, backends that share a store, plans that change while jobs wait: on a real cluster."""

from pathlib import Path

import pytest

from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.slurm_toy import Told, ToySweep, drain, resume, sweep

CELL_A = [toy.toy_job("a-pre", "trunk", cells=["a"]), toy.toy_job("a-ft", "a-pre", phase="finetune", cells=["a"])]
CELL_B = [toy.toy_job("b-pre", "trunk", cells=["b"]), toy.toy_job("b-ft", "b-pre", phase="finetune", cells=["b"])]
TRUNK = toy.toy_job("trunk", phase="trunk")


@pytest.fixture
def toys(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToySweep:
    """Sent, on a cluster that does not start any job yet."""
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, [TRUNK, *CELL_A], monkeypatch)
    assert toys.sent()[0] == 3
    return toys


def other(toys: ToySweep, command: str, *options: str) -> Told:
    """A command on the second sweep of the store, which shares the trunk."""
    return sweep(command, "other", *options, "--store", str(toys.store.root))


def queued_names(lab: Lab) -> list[str]:
    """The sweep of every queued task."""
    return sorted(name.rpartition("-")[2] for name in lab.output("squeue", "-h", "-r", "-o", "%j").split())


def test_a_job_that_another_sweep_has_queued_is_waited_for_and_not_sent_again(toys: ToySweep) -> None:
    toy.plan(toys.store, [TRUNK, *CELL_B], sweep="other", backend="slurm")
    assert other(toys, "submit", "--json").json["sent"] == 2
    assert queued_names(toys.lab) == ["other", "other", "toy", "toy", "toy"]
    resume(toys.lab)
    toys.finish()
    toys.ticks_until(lambda _report: bool(other(toys, "tick", "--json", "--no-results").json["complete"]))
    toys.assert_as_undisturbed()
    assert toys.executions("trunk")["begin"] == 1


def test_a_cancelled_sweep_leaves_the_other_sweeps_copy_of_a_shared_job_alone(toys: ToySweep) -> None:
    toy.plan(toys.store, [TRUNK, *CELL_B], sweep="other", backend="slurm")
    other(toys, "submit")
    assert other(toys, "cancel").code == 0
    assert queued_names(toys.lab) == ["toy"] * 3
    resume(toys.lab)
    toys.finish()
    toys.assert_as_undisturbed()


def test_jobs_that_an_edit_took_out_of_the_plan_leave_the_queue(toys: ToySweep) -> None:
    toy.plan(toys.store, [TRUNK, *CELL_B], backend="slurm")
    assert toys.sent()[0] == 2
    batches = toys.notes().batches.values()
    task_of = {f"{batch.id}_{index}": key for batch in batches for index, key in batch.tasks.items()}
    assert sorted(task_of[task] for task in toys.queue()) == ["b-ft", "b-pre", "trunk"]


def test_a_job_that_slurm_has_is_not_run_on_this_machine_beside(toys: ToySweep) -> None:
    told = toys.sweep("submit", "--backend", "local")
    assert told.code == 1
    assert "3 jobs are in Slurm's hands; `sweep cancel toy` takes them out first" in told.err
    assert toys.sweep("cancel").code == 0
    assert toys.sweep("resume", "--no-submit").code == 0
    assert toys.sweep("submit", "--backend", "local").code == 0
    toys.assert_as_undisturbed()
