"""Slurm's services away, or never there: what is known is told, what is not is said, nothing is sent twice."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.reconcile.state import JobState
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import Told, ToySweep

LONGEST_S = 35


@pytest.fixture
def toys(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToySweep:
    """A job that is done, one that runs, and one behind it; from here on with the patience that users have."""
    jobs = [
        toy.toy_job("done"),
        toy.toy_job("runs", "done", steps=1_000, step_seconds=0.1),
        toy.toy_job("queued", "runs"),
    ]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    wait_for("the second job's first step", lambda: toys.executions("runs")["step"], seconds=30)
    monkeypatch.delenv("SWEEP_SLURM_PATIENCE")
    return toys


def status_in_time(toys: ToySweep) -> tuple[Told, dict[str, int]]:
    """What status says, and how many jobs are in each state that occurs; it must not take longer than is promised."""
    begun = time.monotonic()
    told = toys.sweep("status", "--fresh", "--json")
    assert time.monotonic() - begun < LONGEST_S
    assert told.code == 0
    return told, {state: number for state, number in told.json["states"].items() if number}


def test_without_sacct_status_is_right(toys: ToySweep) -> None:
    toys.lab.stop("dbd")
    told, states = status_in_time(toys)
    assert states == {"done": 1, "running": 1, "queued": 1}
    [remark] = told.json["remarks"]
    assert remark.startswith("sacct does not answer")


def test_without_squeue_status_tells_done_from_not_done_and_says_what_it_does_not_know(toys: ToySweep) -> None:
    toys.lab.stop("ctld")
    told, states = status_in_time(toys)
    assert states["done"] == 1
    assert states.keys() <= {"done", "running", "unknown"}
    assert "Unable to contact slurm controller" in told.out
    assert toys.sweep("submit").code == 1  # and sends nothing


def test_without_both_status_tells_done_from_not_done(toys: ToySweep) -> None:
    toys.lab.stop("dbd")
    toys.lab.stop("ctld")
    told, states = status_in_time(toys)
    assert states["done"] == 1
    assert states.keys() <= {"done", "running", "unknown"}
    assert "Unable to contact slurm controller" in told.out


@pytest.fixture
def hung_services(toys: ToySweep) -> Iterator[None]:
    """Controller and database take connections, and never answer."""
    pids = [pid for name in ("ctld", "dbd") if (pid := toys.lab.daemons.pid(name))]
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.usefixtures("hung_services")
def test_services_that_hang_do_not_hang_status(toys: ToySweep) -> None:
    told, states = status_in_time(toys)
    assert states["done"] == 1
    assert "sacct does not answer" in told.out
    assert "squeue: " in told.out


def test_a_graph_runs_to_its_end_on_a_cluster_without_accounting(
    slurm_without_accounting: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = toy.small_graph()
    jobs[2] = toy.toy_job("a-pre", "trunk1", cells=["a"], fail="kill", fail_at=1, fail_times=1)
    toys = ToySweep(slurm_without_accounting, tmp_path, jobs, monkeypatch)
    assert toys.sent()[0] == 12
    assert toys.states()["trunk1"] in {JobState.QUEUED, JobState.RUNNING, JobState.DONE}
    toys.finish()
    toys.assert_as_undisturbed()


def test_a_round_says_whose_folder_cannot_be_read_and_sends_the_rest(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, [toy.toy_job("torn"), toy.toy_job("whole")], monkeypatch)
    lock = toy.run_of(toys.store, toys.by_key["torn"]).lock
    lock.parent.mkdir(parents=True)
    lock.symlink_to(lock)  # a loop: cannot be opened by anyone
    told = toys.sweep("submit", "--json")
    assert told.json["sent"] == 1
    assert f"{lock.parent} cannot be read: Too many levels of symbolic links" in told.err
    assert f"{lock.parent} cannot be read" in toys.sweep("tick", "--no-results").err
    toys.ticks_until(lambda report: report["states"]["done"] == 1)
    lock.unlink()
    toys.finish()
    toys.assert_as_undisturbed()
