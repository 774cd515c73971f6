"""Jobs on a real cluster whose parents' checkpoints `sweep gc` has set aside."""

from pathlib import Path

import pytest

from jobs.job import Job, Resources
from jobs.reconcile.state import JobState
from jobs.set_aside import TrashItem, mark_item, read_trash
from jobs.store.results import SetAsidePath
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep
from tests.sweep.disk.histories import FINAL, STAGE, count_executions

CHAIN = [
    toy.toy_job("trunk1", phase="trunk"),
    toy.toy_job("a-pre", "trunk1", cells=["a"]),
    toy.toy_job("a-ft1", "a-pre", phase="finetune", cells=["a"]),
    toy.toy_job("a-ev1", "a-ft1", phase="evaluate", cells=["a"]),
]


def plan(fleet: ToySweep, *more: Job) -> None:
    toy.plan(fleet.store, [*CHAIN, *more], backend="slurm")
    fleet.store.locate_sweep(toy.SWEEP).source.write_text(
        "name: toy\nkeep: {trunk: none, pretrain: none, finetune: none}\n"
    )


def list_weights(fleet: ToySweep) -> list[str]:
    return sorted(path.parts[-4] for path in fleet.store.runs.rglob("model.safetensors"))


def test_a_child_that_is_planned_later_has_its_parent_brought_back_or_made_again(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = ToySweep(slurm, tmp_path, CHAIN, monkeypatch, stage=STAGE)
    plan(fleet)
    fleet.finish()
    assert fleet.sweep("gc", "--set-aside").code == 0
    assert list_weights(fleet) == []
    assert set(fleet.states().values()) == {JobState.DONE}
    assert fleet.tick()["sent"] == 0
    plan(fleet, toy.toy_job("b-pre", "trunk1", cells=["b"]))
    fleet.finish()
    assert list_weights(fleet) == ["b-pre", "trunk1"]
    assert count_executions(fleet.store, "trunk1", "pretrain") == 1
    # now for good: who reads it has it made again
    assert fleet.sweep("gc", "--set-aside").code == 0
    for record in read_trash(fleet.store):
        assert fleet.sweep("gc", "--remove", record.id).code == 0
    plan(fleet, toy.toy_job("b-pre", "trunk1", cells=["b"]), toy.toy_job("c-pre", "trunk1", cells=["c"]))
    fleet.finish()
    assert count_executions(fleet.store, "trunk1", "pretrain") == 2
    assert count_executions(fleet.store, "b-pre", "pretrain") == 1


def test_a_queued_job_that_finds_its_parent_set_aside_does_nothing_and_is_sent_again(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = toy.toy_job("b-pre", "trunk1", cells=["b"], resources=Resources(options={"hold": ""}))
    fleet = ToySweep(slurm, tmp_path, CHAIN, monkeypatch, stage=STAGE)
    plan(fleet)
    fleet.finish()
    plan(fleet, held)
    assert fleet.sent()[0] == 1
    (job_id,) = fleet.queue()
    # as if the plan had come between the marks and the move: the files are still in their place
    mark_item(
        fleet.store, TrashItem(stage="pretrain", key="trunk1", paths={FINAL: SetAsidePath(trash_id="t1", bytes=1)})
    )
    fleet.store.trash.mkdir()
    slurm.output("scontrol", "release", job_id)
    wait_for("the job to leave the queue", lambda: job_id not in fleet.queue())
    assert not list((fleet.store.locate_run("pretrain", "b-pre").attempts).glob("*")), "it began nothing"
    plan(fleet, toy.toy_job("b-pre", "trunk1", cells=["b"]))
    fleet.finish()
    assert not fleet.store.locate_run("pretrain", "trunk1").set_aside.exists()
    assert count_executions(fleet.store, "trunk1", "pretrain") == 1
