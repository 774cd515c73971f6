"""A person's `scancel` is obeyed: the job stays out, with the reason, until it is resumed."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.processes import read_user_name
from jobs.reconcile.state import JobState
from jobs.slurm.timeouts import SlurmTimeouts
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.late_accounting import late_accounting
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep


def trouble(toys: ToySweep) -> Mapping[str, str]:
    """What `sweep status` says of the jobs that have ended without a result."""
    rows = toys.sweep("status", "--fresh", "--json").json["trouble"]
    return {row["key"]: row["message"] for row in rows}


def assert_left_alone(toys: ToySweep) -> None:
    """Two more rounds send nothing."""
    assert [toys.tick()["sent"] for _ in range(2)] == [0, 0]
    toys.wait_until_queue_is_empty()


def test_a_running_job_that_a_person_cancelled_stays_out_until_it_is_resumed(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    slurm.output("scancel", toys.ids()["k"][0])
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 1)
    assert_left_alone(toys)
    assert trouble(toys)["k"] == f"cancelled with scancel by {read_user_name()}"
    toys.open_gate("k")
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_a_person_who_cancels_is_obeyed_though_the_accounting_is_late(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only sacct tells who cancelled a job; the job's own record says that it was stopped, as at a preemption."""
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("k", gate_at=2)], monkeypatch)
    toys.sent()
    wait_for("the job to be at work", lambda: toys.executions("k")["step"] > 1)
    with late_accounting(slurm.layout):
        slurm.output("scancel", toys.ids()["k"][0])
        toys.wait_until_queue_is_empty()
        late_enough = time.monotonic() + 3 * SlurmTimeouts.from_environment().missing_job_s
        while time.monotonic() < late_enough:
            assert toys.tick()["sent"] == 0
        assert "sacct does not tell of it yet" in toys.sweep("status", "--fresh").out
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 1)
    assert_left_alone(toys)
    assert trouble(toys)["k"] == f"cancelled with scancel by {read_user_name()}"


def test_queued_jobs_that_a_person_cancelled_stay_out_until_they_are_resumed(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = [toy.toy_job(cell, "trunk", cells=[cell]) for cell in ("a", "b")]
    trunk = toy.toy_job("trunk", phase="trunk", gate_at=2)
    toys = ToySweep(slurm, tmp_path, [trunk, *children], monkeypatch)
    toys.sent()
    slurm.output("scancel", toys.ids()["a"][0].partition("_")[0])
    wait_for("the trunk to be at work", lambda: toys.began("trunk"))
    toys.open_gate("trunk")
    toys.ticks_until(lambda report: (report["states"]["done"], report["states"]["cancelled"]) == (1, 2))
    assert_left_alone(toys)
    # Who it was is known to sacct alone, and the controller may tell of the end before sacct has the row.
    assert {message[:22] for message in trouble(toys).values()} == {"cancelled with scancel"}
    assert toys.states() == {"trunk": JobState.DONE, "a": JobState.CANCELLED, "b": JobState.CANCELLED}
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_single_tasks_that_a_person_cancelled_stay_out_though_their_array_goes_on(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an array that waits as one, nothing remembers such a task; of one that was split, the controller alone does.

    Before 24.11 accounting has a row of the second kind.
    """
    trunks = [toy.toy_job(f"t{number}", phase="trunk", gate_at=2) for number in range(3)]
    split = [toy.toy_job(f"s{number}", f"t{number}", cells=[f"s{number}"]) for number in range(3)]
    whole = [toy.toy_job(f"w{number}", "t0", phase="evaluate", cells=[f"w{number}"]) for number in range(3)]
    toys = ToySweep(slurm, tmp_path, [*trunks, *split, *whole], monkeypatch)
    toys.sent()
    ids = toys.ids()
    slurm.output("scancel", ids["s1"][0], ids["w1"][0])
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 2)
    assert trouble(toys).keys() == {"s1", "w1"}
    assert {message[:22] for message in trouble(toys).values()} == {"cancelled with scancel"}
    for trunk in trunks:
        wait_for(f"{trunk.key} to be at work", lambda: toys.began(trunk.key))  # noqa: B023 - called at once
        toys.open_gate(trunk.key)
    toys.ticks_until(lambda report: report["states"]["done"] == 7)
    assert_left_alone(toys)
    assert toys.sweep("resume").code == 0
    toys.finish()
    toys.assert_as_undisturbed()


def test_queued_jobs_that_a_person_cancelled_stay_out_without_accounting(
    slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller alone remembers, and says that they never had a node."""
    trunks = [toy.toy_job(f"t{number}", phase="trunk", gate_at=2) for number in range(2)]
    children = [toy.toy_job(f"c{number}", f"t{number}", cells=[f"c{number}"]) for number in range(2)]
    toys = ToySweep(slurm_without_accounting, tmp_path, [*trunks, *children], monkeypatch)
    toys.sent()
    slurm_without_accounting.output("scancel", toys.ids()["c1"][0].partition("_")[0])
    toys.ticks_until(lambda report: report["states"]["cancelled"] == 2)
    assert trouble(toys) == dict.fromkeys(("c0", "c1"), "cancelled with scancel")
    for trunk in trunks:
        wait_for(f"{trunk.key} to be at work", lambda: toys.began(trunk.key))  # noqa: B023 - called at once
        toys.open_gate(trunk.key)
    toys.ticks_until(lambda report: report["states"]["done"] == 2)
    assert_left_alone(toys)
