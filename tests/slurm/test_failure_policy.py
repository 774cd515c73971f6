"""What follows a failure on a real cluster: tried elsewhere, tried with more memory, or stopped, told and kept out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.state import State
from tests.jobs import toy
from tests.slurm.lab import Lab
from tests.slurm.lab.processes import wait_for
from tests.slurm.slurm_toy import ToySweep

SMALL = Resources(memory_gib=0.25, retry_memory_gib=0.5, time_minutes=10)
TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nOSError: no\n'
MakeToys = Callable[..., ToySweep]


@pytest.fixture
def toys_of(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeToys:
    """A sweep of one job k with this configuration, and children, all sent."""

    def make(*children: str, **config: Any) -> ToySweep:
        jobs = [toy.toy_job("k", phase="trunk" if children else "pretrain", resources=SMALL, **config)]
        jobs += [toy.toy_job(child, "k", cells=[child], resources=SMALL) for child in children]
        toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
        told = toys.sweep("submit")
        assert told.code == 0, told.err
        return toys

    return make


def stopped(toys: ToySweep) -> None:
    """Rounds until k counts as failed; two more change nothing."""
    toys.ticks_until(lambda report: report["states"]["failed"] == 1)
    before = toys.executions("k")["begin"]
    assert [toys.tick()["sent"] for _ in range(2)] == [0, 0]
    assert toys.executions("k")["begin"] == before


def trouble(toys: ToySweep) -> dict[str, Any]:
    """What `sweep status` says of k."""
    (row,) = toys.sweep("status", "--fresh", "--json").json["trouble"]
    assert row["key"] == "k"
    return dict(row)


def history(toys: ToySweep) -> list[dict[str, Any]]:
    """k's executions as the attempts' records have them, oldest first."""
    starts = [json.loads(path.read_text()) for path in toys.store.run("pretrain", "k").attempts.glob("*/start.json")]
    return sorted(starts, key=lambda start: float(start["started_at"]))


def test_children_of_a_failed_trunk_leave_the_queue_with_the_cause_and_come_back_after_its_repair(
    toys_of: MakeToys,
) -> None:
    toys = toys_of("a", "b", fail="data", fail_at=1, fail_times=1)
    stopped(toys)
    assert toys.queue() == {}
    assert toys.states() == {"k": State.FAILED, "a": State.BLOCKED, "b": State.BLOCKED}
    (blocked,) = toys.sweep("status", "--fresh", "--json").json["blocked"]
    assert (blocked["key"], blocked["behind"]) == ("k", 2)
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_a_diverged_job_is_not_tried_again(toys_of: MakeToys) -> None:
    toys = toys_of(fail="diverged", fail_at=1)
    stopped(toys)
    assert toys.executions("k")["begin"] == 1
    assert (trouble(toys)["class"], trouble(toys)["message"]) == ("diverged", "diverged at step 1 second line")


def test_the_same_traceback_twice_is_not_tried_a_third_time(toys_of: MakeToys) -> None:
    toys = toys_of(fail="unknown", fail_at=1, traceback=TRACEBACK)
    stopped(toys)
    assert toys.executions("k")["begin"] == 2


def test_a_node_fault_is_tried_again_elsewhere(toys_of: MakeToys) -> None:
    toys = toys_of(fail="node_fault", fail_at=1, fail_times=1)
    toys.finish()
    first, second = history(toys)
    assert first["node"] != second["node"]
    toys.assert_as_undisturbed()


def test_what_ran_out_of_memory_gets_more_once(toys_of: MakeToys, slurm: Lab) -> None:
    toys = toys_of(fail="out_of_memory", fail_at=1)
    stopped(toys)
    asked = [
        slurm.output("sacct", "-n", "-P", "-X", "-j", task, "-o", "ReqMem").splitlines()[0] for task in toys.ids()["k"]
    ]
    assert asked == ["256M", "512M"]


def test_a_job_that_a_person_cancelled_stays_out_until_it_is_resumed(toys_of: MakeToys, slurm: Lab) -> None:
    toys = toys_of(steps=40, step_seconds=0.1)
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1, seconds=30)
    slurm.output("scancel", toys.ids()["k"][0])
    stopped(toys)
    assert trouble(toys)["message"].startswith("cancelled with scancel by uid ")
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_a_queued_job_that_a_person_cancelled_stays_out_too(toys_of: MakeToys, slurm: Lab) -> None:
    toys = toys_of("a", steps=20, step_seconds=0.1)
    slurm.output("scancel", toys.ids()["a"][0])
    toys.ticks_until(lambda report: report["states"]["done"] == 1 and report["states"]["failed"] == 1)
    assert toys.states()["a"] is State.FAILED
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()
