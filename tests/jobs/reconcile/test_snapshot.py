"""States of jobs from what is on disk and the cluster's account together."""

import pytest

from jobs.cluster import ClusterState, Observation
from jobs.job import Job, Resources
from jobs.reconcile.snapshot import Gatherer, Picture, facts_of
from jobs.reconcile.state import State, job_state
from jobs.store.ledger import Event, EventKind, Ledger, Wishes
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass
from tests.jobs import toy
from tests.jobs.reconcile import executions


@pytest.fixture
def run(store: Store) -> RunPaths:
    return store.run("pretrain", "k")


@pytest.mark.parametrize(
    ("cluster", "state"),
    [
        (None, State.UNKNOWN),
        (ClusterState.UNKNOWN, State.UNKNOWN),
        (ClusterState.ENDED, State.INTERRUPTED),
        (ClusterState.QUEUED, State.QUEUED),  # requeued after its node failed
        (ClusterState.RUNNING, State.RUNNING),
    ],
)
def test_the_cluster_vouches_for_an_attempt_of_another_machine(
    store: Store, run: RunPaths, cluster: ClusterState | None, state: State
) -> None:
    executions.begin(run)
    observation = Observation(state=cluster) if cluster else None
    evidence = Gatherer(store).one(toy.toy_job("k"))
    assert job_state(facts_of("k", evidence, Wishes(), observation)) is state


def test_an_ending_is_the_clusters_word_on_an_attempt_of_another_machine(store: Store, run: RunPaths) -> None:
    executions.begin(run)
    row = executions.ending("NODE_FAIL", failure=FailureClass.NODE_FAULT)
    evidence = Gatherer(store).one(toy.toy_job("k"), [row])
    assert job_state(facts_of("k", evidence, Wishes())) is State.INTERRUPTED
    assert evidence.message == "its node failed (the cluster says NODE_FAIL)"


def test_a_failed_launch_does_not_hide_an_attempt_that_may_live(store: Store, run: RunPaths) -> None:
    executions.begin(run)
    row = executions.ending("NODE_FAIL", 500.0, id="99_1", failure=FailureClass.NODE_FAULT)
    evidence = Gatherer(store).one(toy.toy_job("k"), [row])
    assert job_state(facts_of("k", evidence, Wishes())) is State.UNKNOWN


def pictured(store: Store, *jobs: Job) -> Picture:
    return Picture(jobs, store, store.sweep("toy").ledger)


def state_of(picture: Picture, key: str = "k") -> State:
    return picture.statuses[key].state


def test_a_job_that_only_the_cluster_knows_is_judged_by_its_endings(store: Store) -> None:
    picture = pictured(store, toy.toy_job("k"), toy.toy_job("child", "k"))
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, message="cancelled by uid 1000")
    picture.look_at_everything({}, {"k": [by_hand]})
    assert state_of(picture) is State.FAILED
    assert picture.evidence["k"].message == "cancelled with scancel by uid 1000"
    assert state_of(picture, "child") is State.BLOCKED
    assert picture.statuses["child"].cause == "k"
    picture.judge(["k"], {}, {})
    assert state_of(picture) is State.READY
    picture.judge(["k"], {}, {"k": [by_hand]})
    picture.look_at(["k"])
    assert state_of(picture) is State.FAILED
    assert picture.evidence["k"].last is not None


def test_a_job_that_a_person_cancelled_is_taken_in_again_by_a_resume(store: Store) -> None:
    picture = pictured(store, toy.toy_job("k"))
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, message="cancelled by uid 1000")
    Ledger(store.sweep("toy").ledger).append([Event(event=EventKind.RESUMED, key="k", time=101.0)])
    picture.look_at_everything({}, {"k": [by_hand]})
    assert state_of(picture) is State.INTERRUPTED


def test_restarts_that_are_planned_count_for_the_state(store: Store, run: RunPaths) -> None:
    for restart in range(4):
        executions.begin(run, restart, 100.0 * restart + 101)
    rows = [executions.ending("TIMEOUT", 100.0 * (n + 1), failure=FailureClass.WALL_CLOCK) for n in range(4)]
    states = []
    for restarts in (0, 4):
        picture = pictured(store, toy.toy_job("k", resources=Resources(restarts=restarts)))
        picture.look_at_everything({}, {"k": rows})
        states.append(state_of(picture))
    assert states == [State.FAILED, State.INTERRUPTED]
