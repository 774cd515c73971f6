"""`sweep resume` as a user meets it, with real processes."""

import pytest

from jobs.local.runner_lock import hold_runner_lock
from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.toy_commands import sweep

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_resume_gives_failed_jobs_a_new_budget(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [toy.toy_job("a", cells=["x"], fail="data", fail_times=1), toy.toy_job("b", "a", cells=["x"])]
    jobs.append(toy.toy_job("c", cells=["y"], fail="data", fail_times=1))
    toy.plan(store, jobs)
    assert sweep(store, "submit") == 1
    capsys.readouterr()
    assert sweep(store, "resume", "--dry-run") == 0
    assert capsys.readouterr().out == "a\nc\n"
    assert sweep(store, "resume", "--cells", "x") == 0
    assert toy.states(store, jobs) == {"a": JobState.DONE, "b": JobState.DONE, "c": JobState.FAILED}
    assert sweep(store, "resume", "--no-submit") == 0
    assert toy.states(store, jobs)["c"] is JobState.INTERRUPTED
    assert sweep(store, "submit") == 0


def test_a_job_that_cannot_be_read_gets_no_budget_that_forgives_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumption names the attempts that count no longer: of those that are not seen it can name none."""
    jobs = [toy.toy_job("a", fail="data", fail_times=1), toy.toy_job("b", fail="data", fail_times=1)]
    toy.plan(store, jobs)
    assert sweep(store, "submit") == 1
    lock = toy.run_of(store, jobs[0]).lock
    kept = lock.rename(lock.with_name("aside"))
    lock.symlink_to(lock)  # a loop: cannot be opened by anyone
    capsys.readouterr()
    assert sweep(store, "resume", "--no-submit") == 1
    told = capsys.readouterr().err
    assert "/a cannot be read: Too many levels of symbolic links: it gets no new budget" in told
    assert "1 job has a new budget" in told
    kept.replace(lock)
    assert toy.states(store, jobs) == {"a": JobState.FAILED, "b": JobState.INTERRUPTED}
    assert sweep(store, "resume") == 0


def test_resume_leaves_the_rest_to_a_runner_that_is_at_work(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a")])
    with hold_runner_lock(store, sweep=toy.SWEEP, writer="w"):
        assert sweep(store, "resume") == 0
    assert "the runner of this sweep starts them" in capsys.readouterr().err
    with hold_runner_lock(store, sweep="other", writer="w"):
        assert sweep(store, "resume") == 1
    assert "has a runner already" in capsys.readouterr().err
