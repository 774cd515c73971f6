import os
from pathlib import Path

import pytest

from jobs.cluster import ClusterState, Observation
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.slurm.round import RoundReport, find_stale_dependencies
from jobs.store.paths import Store
from tests.jobs import toy

PARENT, CHILD = toy.toy_job("parent"), toy.toy_job("child", "parent")
BEHIND = Observation(state=ClusterState.QUEUED, id="9_0", waits_for_parents=True)


@pytest.fixture
def picture(tmp_path: Path) -> SweepSnapshot:
    """The parent was done at 1000."""
    store = Store(tmp_path / "store")
    toy.submit(store, [PARENT])
    os.utime(toy.run_of(store, PARENT).result, (1000, 1000))
    return toy.picture(store, [PARENT, CHILD])


def test_a_job_behind_a_parent_that_was_done_long_ago_waits_for_somebody_else(picture: SweepSnapshot) -> None:
    assert find_stale_dependencies(picture, {"child": BEHIND}, 1001)["child"].state is ClusterState.STUCK


def test_slurm_may_take_a_moment_to_notice_that_the_parent_is_done(picture: SweepSnapshot) -> None:
    assert find_stale_dependencies(picture, {"child": BEHIND}, 999) == {}


def test_a_job_that_waits_for_something_else_is_left_alone(picture: SweepSnapshot) -> None:
    queued = Observation(state=ClusterState.QUEUED, id="9_0", message="waits for GPUs or nodes")
    assert find_stale_dependencies(picture, {"child": queued, "left the plan": BEHIND}, 1001) == {}


def test_a_job_behind_an_unfinished_parent_waits_rightly(tmp_path: Path) -> None:
    picture = toy.picture(Store(tmp_path / "empty"), [PARENT, CHILD])
    assert find_stale_dependencies(picture, {"child": BEHIND}, 1001) == {}


def test_passes_of_a_round_add_up() -> None:
    first = RoundReport(sent=2, calls=1, withdrawn=3, refused={"a": "no"})
    both = first.merge_later(RoundReport(sent=1, calls=1, limits=("full",), problem="late"))
    assert (both.sent, both.calls, both.withdrawn, both.limits, both.problem) == (3, 2, 3, ("full",), "late")
    assert both.refused == {"a": "no"}
