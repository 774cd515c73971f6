"""The truth table of job states."""

import itertools

import pytest

from jobs.observation import ClusterState
from jobs.reconcile.retries import RetryDecision
from jobs.reconcile.state import JobFacts, JobState, JobStatus, compute_job_state, compute_job_statuses
from tests.jobs.toy import toy_job

STUCK, QUEUED, RUNNING, UNKNOWN = ClusterState.STUCK, ClusterState.QUEUED, ClusterState.RUNNING, ClusterState.UNKNOWN
ENDED = ClusterState.ENDED
DONE = (JobState.DONE,)

TABLE = [
    # facts, parents' states, state
    (JobFacts(), (), JobState.READY),
    (JobFacts(), DONE, JobState.READY),
    (JobFacts(), (JobState.RUNNING,), JobState.WAITING),
    (JobFacts(), (JobState.DONE, JobState.QUEUED), JobState.WAITING),
    (JobFacts(), (JobState.UNKNOWN,), JobState.WAITING),
    (JobFacts(), (JobState.FAILED,), JobState.BLOCKED),
    (JobFacts(), (JobState.BLOCKED,), JobState.BLOCKED),
    (JobFacts(), (JobState.CANCELLED,), JobState.BLOCKED),
    (JobFacts(cluster=QUEUED), DONE, JobState.QUEUED),
    (JobFacts(cluster=QUEUED), (JobState.RUNNING,), JobState.QUEUED),  # held back by the cluster itself
    (JobFacts(cluster=QUEUED), (JobState.FAILED,), JobState.BLOCKED),  # it would wait for ever
    (JobFacts(cluster=STUCK), (JobState.INTERRUPTED,), JobState.WAITING),  # the parent is tried again
    (JobFacts(cluster=STUCK), (JobState.FAILED,), JobState.BLOCKED),
    (JobFacts(cluster=STUCK, retry_decision=RetryDecision.STOP), DONE, JobState.FAILED),
    (JobFacts(cluster=ENDED), DONE, JobState.READY),
    (JobFacts(cluster=ENDED, retry_decision=RetryDecision.GO_ON), DONE, JobState.INTERRUPTED),
    (JobFacts(cluster=ENDED, retry_decision=RetryDecision.STOP), DONE, JobState.FAILED),
    (JobFacts(cluster=ENDED, live=True), DONE, JobState.RUNNING),  # slurmd is gone, its processes are not
    (JobFacts(cluster=RUNNING), DONE, JobState.RUNNING),
    (JobFacts(live=True), DONE, JobState.RUNNING),
    (JobFacts(live=True, cluster=QUEUED), DONE, JobState.RUNNING),
    (JobFacts(live=True), (JobState.FAILED,), JobState.RUNNING),
    (JobFacts(retry_decision=RetryDecision.GO_ON), DONE, JobState.INTERRUPTED),
    (JobFacts(retry_decision=RetryDecision.GO_ON, cluster=QUEUED), DONE, JobState.QUEUED),
    (
        JobFacts(retry_decision=RetryDecision.GO_ON),
        (JobState.RUNNING,),
        JobState.WAITING,
    ),  # its parent runs again: damaged input
    (JobFacts(retry_decision=RetryDecision.STOP), DONE, JobState.FAILED),
    (JobFacts(retry_decision=RetryDecision.STOP), (JobState.FAILED,), JobState.FAILED),
    (JobFacts(retry_decision=RetryDecision.STOP, ended_by_person=True), DONE, JobState.CANCELLED),
    (JobFacts(retry_decision=RetryDecision.GO_ON, ended_by_person=True), DONE, JobState.INTERRUPTED),
    (JobFacts(retry_decision=RetryDecision.STOP, live=True), DONE, JobState.RUNNING),  # somebody gave it another try
    (JobFacts(cancelled=True), DONE, JobState.CANCELLED),
    (JobFacts(cancelled=True, retry_decision=RetryDecision.STOP), DONE, JobState.CANCELLED),
    (JobFacts(cancelled=True, live=True), DONE, JobState.RUNNING),  # until it has saved
    (JobFacts(cancelled=True, cluster=QUEUED), DONE, JobState.CANCELLED),
    (JobFacts(may_run_elsewhere=True), DONE, JobState.UNKNOWN),
    (
        JobFacts(may_run_elsewhere=True, retry_decision=RetryDecision.GO_ON),
        DONE,
        JobState.UNKNOWN,
    ),  # never a second one beside it
    (JobFacts(cluster=UNKNOWN, retry_decision=RetryDecision.GO_ON), DONE, JobState.UNKNOWN),
    (JobFacts(has_result=True), (JobState.FAILED,), JobState.DONE),
]


@pytest.mark.parametrize(("facts", "parents", "state"), TABLE)
def test_the_state_follows_from_the_facts(facts: JobFacts, parents: tuple[JobState, ...], state: JobState) -> None:
    assert compute_job_state(facts, parents) is state


def test_the_table_shows_every_state() -> None:
    assert {row[2] for row in TABLE} == set(JobState)


def test_a_result_outweighs_every_other_fact() -> None:
    for cluster, verdict, flag in itertools.product([None, *ClusterState], RetryDecision, [False, True]):
        facts = JobFacts(
            has_result=True, live=flag, cluster=cluster, may_run_elsewhere=flag, cancelled=flag, retry_decision=verdict
        )
        assert compute_job_state(facts, (JobState.FAILED,)) is JobState.DONE


def test_an_execution_that_ended_says_no_more_than_a_cluster_that_knows_nothing() -> None:
    for verdict, flag, other in itertools.product(RetryDecision, [False, True], [False, True]):
        facts = [
            JobFacts(cluster=cluster, retry_decision=verdict, cancelled=flag, may_run_elsewhere=other)
            for cluster in (None, ENDED)
        ]
        for parents in ((), DONE, (JobState.FAILED,), (JobState.RUNNING,)):
            assert compute_job_state(facts[0], parents) is compute_job_state(facts[1], parents)


def test_nothing_that_may_be_alive_is_ever_startable() -> None:
    for cluster, verdict, cancelled in itertools.product(ClusterState, RetryDecision, [False, True]):
        for facts in (
            JobFacts(live=True, cluster=cluster, retry_decision=verdict, cancelled=cancelled),
            JobFacts(cluster=RUNNING, retry_decision=verdict, cancelled=cancelled),
            JobFacts(may_run_elsewhere=True, cluster=cluster, retry_decision=verdict, cancelled=cancelled),
        ):
            assert compute_job_state(facts, DONE) in {JobState.RUNNING, JobState.UNKNOWN}


def test_a_blocked_job_names_the_ancestor_that_blocks_it() -> None:
    jobs = [
        toy_job("root"),
        toy_job("failed", "root"),
        toy_job("child", "failed"),
        toy_job("grandchild", "child", "root"),
    ]
    facts = {job.key: JobFacts() for job in jobs} | {
        "root": JobFacts(has_result=True),
        "failed": JobFacts(retry_decision=RetryDecision.STOP),
    }
    statuses = compute_job_statuses(jobs, facts)
    assert statuses["failed"] == JobStatus(JobState.FAILED)
    assert statuses["child"] == statuses["grandchild"] == JobStatus(JobState.BLOCKED, "failed")
