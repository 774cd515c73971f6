"""States of jobs from what is on disk and the cluster's account together."""

import pytest

from jobs.cluster import ClusterState, Observation
from jobs.job import Job, Resources
from jobs.reconcile.snapshot import RunReader, SweepSnapshot, collect_facts
from jobs.reconcile.state import JobState, compute_job_state
from jobs.store.ledger import Event, EventKind, Ledger, UserRequests
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass
from tests.jobs import toy
from tests.jobs.reconcile import executions


@pytest.fixture
def run(store: Store) -> RunPaths:
    return store.locate_run("pretrain", "k")


@pytest.mark.parametrize(
    ("cluster", "state"),
    [
        (None, JobState.UNKNOWN),
        (ClusterState.UNKNOWN, JobState.UNKNOWN),
        (ClusterState.ENDED, JobState.INTERRUPTED),
        (ClusterState.QUEUED, JobState.QUEUED),  # requeued after its node failed
        (ClusterState.RUNNING, JobState.RUNNING),
    ],
)
def test_the_cluster_vouches_for_an_attempt_of_another_machine(
    store: Store, run: RunPaths, cluster: ClusterState | None, state: JobState
) -> None:
    executions.begin(run)
    observation = Observation(state=cluster) if cluster else None
    evidence = RunReader(store).read_one(toy.toy_job("k"))
    assert compute_job_state(collect_facts("k", evidence, UserRequests(), observation)) is state


def test_an_ending_is_the_clusters_word_on_an_attempt_of_another_machine(store: Store, run: RunPaths) -> None:
    executions.begin(run)
    row = executions.ending("NODE_FAIL", failure=FailureClass.NODE_FAULT)
    evidence = RunReader(store).read_one(toy.toy_job("k"), [row])
    assert compute_job_state(collect_facts("k", evidence, UserRequests())) is JobState.INTERRUPTED
    assert evidence.message == "its node failed (the cluster says NODE_FAIL)"


def test_a_failed_launch_does_not_hide_an_attempt_that_may_live(store: Store, run: RunPaths) -> None:
    executions.begin(run)
    row = executions.ending("NODE_FAIL", 500.0, id="99_1", failure=FailureClass.NODE_FAULT)
    evidence = RunReader(store).read_one(toy.toy_job("k"), [row])
    assert compute_job_state(collect_facts("k", evidence, UserRequests())) is JobState.UNKNOWN


def pictured(store: Store, *jobs: Job) -> SweepSnapshot:
    return SweepSnapshot(jobs, store, store.locate_sweep("toy").ledger)


def state_of(picture: SweepSnapshot, key: str = "k") -> JobState:
    return picture.statuses[key].state


def test_a_job_that_only_the_cluster_knows_is_judged_by_its_endings(store: Store) -> None:
    picture = pictured(store, toy.toy_job("k"), toy.toy_job("child", "k"))
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, cancelled_by_uid=1000)
    picture.reload({}, {"k": [by_hand]})
    assert state_of(picture) is JobState.FAILED
    assert picture.runs["k"].message == "cancelled with scancel by uid 1000"
    assert state_of(picture, "child") is JobState.BLOCKED
    assert picture.statuses["child"].cause == "k"
    picture.update(["k"], {}, {})
    assert state_of(picture) is JobState.READY
    picture.update(["k"], {}, {"k": [by_hand]})
    picture.reload_runs(["k"])
    assert state_of(picture) is JobState.FAILED
    assert picture.runs["k"].last is not None


def test_a_job_that_a_person_cancelled_is_taken_in_again_by_a_resume(store: Store) -> None:
    picture = pictured(store, toy.toy_job("k"))
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, cancelled_by_uid=1000)
    Ledger(store.locate_sweep("toy").ledger).append([Event(event=EventKind.RESUMED, key="k", time=101.0)])
    picture.reload({}, {"k": [by_hand]})
    assert state_of(picture) is JobState.INTERRUPTED


def test_restarts_that_are_planned_count_for_the_state(store: Store, run: RunPaths) -> None:
    for restart in range(4):
        executions.begin(run, restart, 100.0 * restart + 101)
    rows = [executions.ending("TIMEOUT", 100.0 * (n + 1), failure=FailureClass.WALL_CLOCK) for n in range(4)]
    states = []
    for restarts in (0, 4):
        picture = pictured(store, toy.toy_job("k", resources=Resources(restarts=restarts)))
        picture.reload({}, {"k": rows})
        states.append(state_of(picture))
    assert states == [JobState.FAILED, JobState.INTERRUPTED]
