import os
from pathlib import Path

import pytest

from jobs.observation import ClusterState, Observation
from jobs.reconcile.snapshot import ClusterReport, SweepSnapshot, load_snapshot
from jobs.slurm.refusals import Refusal
from jobs.slurm.round import RoundReport, find_invisible_results, find_stale_dependencies
from jobs.slurm.sbatch_errors import RefusalKind
from jobs.store.paths import Store
from tests.jobs import toy
from tests.jobs.reconcile import executions

PARENT, CHILD = toy.toy_job("parent"), toy.toy_job("child", "parent")
BEHIND = Observation(state=ClusterState.QUEUED, id="9_0", waits_for_parents=True)


@pytest.fixture
def picture(tmp_path: Path) -> SweepSnapshot:
    """The parent was done at 1000."""
    store = Store(tmp_path / "store")
    toy.submit(store, [PARENT])
    os.utime(toy.run_of(store, PARENT).result, (1000, 1000))
    return toy.picture(store, [PARENT, CHILD])


def observe(picture: SweepSnapshot, child: Observation) -> SweepSnapshot:
    picture.update({"child": child})
    return picture


def test_a_job_behind_a_parent_that_was_done_long_ago_waits_for_somebody_else(picture: SweepSnapshot) -> None:
    assert find_stale_dependencies(observe(picture, BEHIND), 1001)["child"].state is ClusterState.STUCK


def test_slurm_may_take_a_moment_to_notice_that_the_parent_is_done(picture: SweepSnapshot) -> None:
    assert find_stale_dependencies(observe(picture, BEHIND), 999) == {}


def test_a_job_that_waits_for_something_else_is_left_alone(picture: SweepSnapshot) -> None:
    queued = Observation(state=ClusterState.QUEUED, id="9_0", message="waits for GPUs or nodes")
    assert find_stale_dependencies(observe(picture, queued), 1001) == {}


def test_a_job_behind_an_unfinished_parent_waits_rightly(tmp_path: Path) -> None:
    picture = toy.picture(Store(tmp_path / "empty"), [PARENT, CHILD])
    assert find_stale_dependencies(observe(picture, BEHIND), 1001) == {}


def test_passes_of_a_round_add_up() -> None:
    refused = {"a": Refusal(text="no", when=1.0, kind=RefusalKind.INVALID)}
    first = RoundReport(sent=2, calls=1, withdrawn=3, refused=refused)
    both = first.merge_later(RoundReport(sent=1, calls=1, limits=("full",), problem="late"))
    assert (both.sent, both.calls, both.withdrawn, both.limits, both.problem) == (3, 2, 3, ("full",), "late")
    assert both.refused == both.invalid == refused


def test_a_result_that_slurm_calls_complete_may_be_hidden_by_nfs_for_a_moment(tmp_path: Path) -> None:
    row = executions.ending("COMPLETED", 2000.0, key="parent")
    report = ClusterReport(
        observations={"parent": Observation(state=ClusterState.ENDED, id=row.id)},
        accounting_records={"parent": [row]},
    )
    snapshot = load_snapshot([PARENT, CHILD], Store(tmp_path), toy.SWEEP, report)
    assert find_invisible_results(snapshot, since=row.ended_at - 1)["parent"].state is ClusterState.UNKNOWN
    assert find_invisible_results(snapshot, since=row.ended_at) == {}


def test_a_result_that_is_there_is_not_hidden(picture: SweepSnapshot) -> None:
    row = executions.ending("COMPLETED", 2000.0, key="parent")
    ended = Observation(state=ClusterState.ENDED, id=row.id)
    picture.reload(ClusterReport(observations={"parent": ended}, accounting_records={"parent": [row]}))
    assert find_invisible_results(picture, since=row.ended_at - 1) == {}
