"""The truth table of job states."""

import itertools

import pytest

from jobs.cluster import ClusterState
from jobs.reconcile.retries import Verdict
from jobs.reconcile.state import Facts, JobStatus, State, graph_status, job_state
from tests.jobs.toy import toy_job

STUCK, QUEUED, RUNNING, UNKNOWN = ClusterState.STUCK, ClusterState.QUEUED, ClusterState.RUNNING, ClusterState.UNKNOWN
ENDED = ClusterState.ENDED
DONE = (State.DONE,)

TABLE = [
    # facts, parents' states, state
    (Facts(), (), State.READY),
    (Facts(), DONE, State.READY),
    (Facts(), (State.RUNNING,), State.WAITING),
    (Facts(), (State.DONE, State.QUEUED), State.WAITING),
    (Facts(), (State.UNKNOWN,), State.WAITING),
    (Facts(), (State.FAILED,), State.BLOCKED),
    (Facts(), (State.BLOCKED,), State.BLOCKED),
    (Facts(), (State.CANCELLED,), State.BLOCKED),
    (Facts(cluster=QUEUED), DONE, State.QUEUED),
    (Facts(cluster=QUEUED), (State.RUNNING,), State.QUEUED),  # held back by the cluster itself
    (Facts(cluster=QUEUED), (State.FAILED,), State.BLOCKED),  # it would wait for ever
    (Facts(cluster=STUCK), (State.INTERRUPTED,), State.WAITING),  # the parent is tried again
    (Facts(cluster=STUCK), (State.FAILED,), State.BLOCKED),
    (Facts(cluster=STUCK, verdict=Verdict.STOP), DONE, State.FAILED),
    (Facts(cluster=ENDED), DONE, State.READY),
    (Facts(cluster=ENDED, verdict=Verdict.GO_ON), DONE, State.INTERRUPTED),
    (Facts(cluster=ENDED, verdict=Verdict.STOP), DONE, State.FAILED),
    (Facts(cluster=ENDED, live=True), DONE, State.RUNNING),  # slurmd is gone, its processes are not
    (Facts(cluster=RUNNING), DONE, State.RUNNING),
    (Facts(live=True), DONE, State.RUNNING),
    (Facts(live=True, cluster=QUEUED), DONE, State.RUNNING),
    (Facts(live=True), (State.FAILED,), State.RUNNING),
    (Facts(verdict=Verdict.GO_ON), DONE, State.INTERRUPTED),
    (Facts(verdict=Verdict.GO_ON, cluster=QUEUED), DONE, State.QUEUED),
    (Facts(verdict=Verdict.GO_ON), (State.RUNNING,), State.WAITING),  # its parent runs again: damaged input
    (Facts(verdict=Verdict.STOP), DONE, State.FAILED),
    (Facts(verdict=Verdict.STOP), (State.FAILED,), State.FAILED),
    (Facts(verdict=Verdict.STOP, live=True), DONE, State.RUNNING),  # somebody gave it another try
    (Facts(cancelled=True), DONE, State.CANCELLED),
    (Facts(cancelled=True, verdict=Verdict.STOP), DONE, State.CANCELLED),
    (Facts(cancelled=True, live=True), DONE, State.RUNNING),  # until it has saved
    (Facts(cancelled=True, cluster=QUEUED), DONE, State.CANCELLED),
    (Facts(unseen=True), DONE, State.UNKNOWN),
    (Facts(unseen=True, verdict=Verdict.GO_ON), DONE, State.UNKNOWN),  # never a second one beside it
    (Facts(cluster=UNKNOWN, verdict=Verdict.GO_ON), DONE, State.UNKNOWN),
    (Facts(has_result=True), (State.FAILED,), State.DONE),
]


@pytest.mark.parametrize(("facts", "parents", "state"), TABLE)
def test_the_state_follows_from_the_facts(facts: Facts, parents: tuple[State, ...], state: State) -> None:
    assert job_state(facts, parents) is state


def test_the_table_shows_every_state() -> None:
    assert {row[2] for row in TABLE} == set(State)


def test_a_result_outweighs_every_other_fact() -> None:
    for cluster, verdict, flag in itertools.product([None, *ClusterState], Verdict, [False, True]):
        facts = Facts(has_result=True, live=flag, cluster=cluster, unseen=flag, cancelled=flag, verdict=verdict)
        assert job_state(facts, (State.FAILED,)) is State.DONE


def test_an_execution_that_ended_says_no_more_than_a_cluster_that_knows_nothing() -> None:
    for verdict, flag, other in itertools.product(Verdict, [False, True], [False, True]):
        facts = [Facts(cluster=cluster, verdict=verdict, cancelled=flag, unseen=other) for cluster in (None, ENDED)]
        for parents in ((), DONE, (State.FAILED,), (State.RUNNING,)):
            assert job_state(facts[0], parents) is job_state(facts[1], parents)


def test_nothing_that_may_be_alive_is_ever_startable() -> None:
    for cluster, verdict, cancelled in itertools.product(ClusterState, Verdict, [False, True]):
        for facts in (
            Facts(live=True, cluster=cluster, verdict=verdict, cancelled=cancelled),
            Facts(cluster=RUNNING, verdict=verdict, cancelled=cancelled),
            Facts(unseen=True, cluster=cluster, verdict=verdict, cancelled=cancelled),
        ):
            assert job_state(facts, DONE) in {State.RUNNING, State.UNKNOWN}


def test_a_blocked_job_names_the_ancestor_that_blocks_it() -> None:
    jobs = [
        toy_job("root"),
        toy_job("failed", "root"),
        toy_job("child", "failed"),
        toy_job("grandchild", "child", "root"),
    ]
    facts = {job.key: Facts() for job in jobs} | {
        "root": Facts(has_result=True),
        "failed": Facts(verdict=Verdict.STOP),
    }
    statuses = graph_status(jobs, facts)
    assert statuses["failed"] == JobStatus(State.FAILED)
    assert statuses["child"] == statuses["grandchild"] == JobStatus(State.BLOCKED, "failed")
