"""`sweep cancel` as a user meets it, with real processes."""

import os

import pytest

from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.toy_commands import PATIENCE_SECONDS, beside, sweep, wait_until_it_works

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_cancel_lets_running_jobs_save_and_keeps_all_out_until_resumed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [toy.toy_job("a", steps=30, step_seconds=0.03), toy.toy_job("b", "a"), toy.toy_job("c", "b")]
    toy.plan(store, jobs)
    with beside(store, "submit") as runner:
        wait_until_it_works(store, jobs[0])
        assert sweep(store, "cancel") == 0
        assert "3 jobs cancelled, 1 of them was running" in capsys.readouterr().out
        assert not is_held(toy.run_of(store, jobs[0]).lock)
        out, _ = runner.communicate(timeout=PATIENCE_SECONDS)
        assert runner.returncode == 1
        assert "0 of 3 jobs done, 3 cancelled" in out
    assert toy.count(store, jobs[0], "stopped") == 1
    assert sweep(store, "submit") == 1
    assert set(toy.states(store, jobs).values()) == {JobState.CANCELLED}
    assert sweep(store, "resume") == 0
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
    assert toy.count(store, jobs[0], "step") == 30


def test_a_cancelled_cell_leaves_the_others_and_what_they_share(store: Store) -> None:
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    assert sweep(store, "cancel", "b") == 0
    states = toy.states(store, jobs)
    assert {key for key, state in states.items() if state is JobState.CANCELLED} == {
        key for key in states if key.startswith("b-")
    }
    assert sweep(store, "cancel", "trunk2") == 0
    assert toy.states(store, jobs)["trunk2"] is JobState.CANCELLED
    assert toy.states(store, jobs)["trunk1"] is JobState.READY


def test_an_attempt_that_does_not_save_in_time_is_killed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = toy.toy_job("deaf", steps=2, step_seconds=60.0)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        assert sweep(store, "cancel", "--grace", "0.2") == 0
        runner.communicate(timeout=PATIENCE_SECONDS)
    assert "did not stop within 0.2 s and was killed" in capsys.readouterr().err
    assert toy.states(store, [job]) == {"deaf": JobState.CANCELLED}


def test_cancel_reaches_an_attempt_whose_supervisor_is_gone(store: Store) -> None:
    job = toy.toy_job("orphan", steps=400, step_seconds=0.05)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        runner.kill()
    start = toy.picture(store, [job]).runs["orphan"].last
    assert start is not None
    os.kill(start.start.pid, 9)
    assert sweep(store, "cancel") == 0
    assert toy.count(store, job, "stopped") == 1
