"""States of jobs from what is on disk and the cluster's account together."""

import time
from collections.abc import Sequence

import pytest

from jobs.job import Job, Resources
from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.snapshot import ClusterReport, RunReader, SweepSnapshot, collect_facts, load_snapshot
from jobs.reconcile.state import JobState, compute_job_state
from jobs.store.ledger import Event, EventKind, Ledger, UserRequests
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass
from jobs.store.results import identify_result
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


def load(store: Store, *jobs: Job, records: Sequence[AccountingRecord] = ()) -> SweepSnapshot:
    return load_snapshot(jobs, store, "toy", ClusterReport(accounting_records={"k": records}))


def state_of(snapshot: SweepSnapshot, key: str = "k") -> JobState:
    return snapshot.statuses[key].state


def test_a_job_that_only_the_cluster_knows_is_judged_by_its_endings(store: Store) -> None:
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, cancelled_by_uid=4_000_001_000)
    snapshot = load(store, toy.toy_job("k"), toy.toy_job("child", "k"), records=[by_hand])
    assert state_of(snapshot) is JobState.CANCELLED
    assert snapshot.runs["k"].message == "cancelled with scancel by uid 4000001000"
    assert state_of(snapshot, "child") is JobState.BLOCKED
    assert snapshot.statuses["child"].cause == "k"
    snapshot.reload()
    assert state_of(snapshot) is JobState.READY
    snapshot.reload(ClusterReport(accounting_records={"k": [by_hand]}))
    snapshot.update({}, reread=["k"])
    assert state_of(snapshot) is JobState.CANCELLED
    assert snapshot.runs["k"].last is not None


def test_an_observation_holds_until_it_is_taken_back(store: Store) -> None:
    snapshot = load(store, toy.toy_job("k"), toy.toy_job("child", "k"))
    snapshot.update({"k": Observation(state=ClusterState.QUEUED)})
    assert (state_of(snapshot), state_of(snapshot, "child")) == (JobState.QUEUED, JobState.WAITING)
    snapshot.update({"child": Observation(state=ClusterState.QUEUED)})
    assert (state_of(snapshot), state_of(snapshot, "child")) == (JobState.QUEUED, JobState.QUEUED)
    snapshot.update({"k": None})
    assert (state_of(snapshot), state_of(snapshot, "child")) == (JobState.READY, JobState.QUEUED)


def test_jobs_that_are_not_in_the_plan_are_not_in_the_snapshot(store: Store) -> None:
    report = ClusterReport(observations={"gone": Observation(state=ClusterState.RUNNING)})
    assert not load_snapshot([toy.toy_job("k")], store, "toy", report).observed


def test_a_cancellation_of_another_writer_is_taken_in(store: Store) -> None:
    snapshot, own = load(store, toy.toy_job("k")), Ledger(store.locate_sweep("toy").ledger)
    own.append([Event(event=EventKind.INTENT, key="k")])
    assert not snapshot.reload_user_requests(but_not_of=own.writer)
    (own.folder / "w-other-1-1.jsonl").write_text('{"event": "cancelled", "key": "k", "time": 5.0}\n')
    assert snapshot.reload_user_requests(but_not_of=own.writer)
    assert state_of(snapshot) is JobState.CANCELLED
    assert not snapshot.reload_user_requests(but_not_of=own.writer)


def test_a_job_that_a_person_cancelled_is_taken_in_again_by_a_resume(store: Store) -> None:
    by_hand = executions.pending_ending(failure=FailureClass.CANCELLED, cancelled_by_uid=4_000_001_000)
    Ledger(store.locate_sweep("toy").ledger).append([Event(event=EventKind.RESUMED, key="k", time=101.0)])
    assert state_of(load(store, toy.toy_job("k"), records=[by_hand])) is JobState.INTERRUPTED


def test_restarts_that_are_planned_count_for_the_state(store: Store, run: RunPaths) -> None:
    for restart in range(4):
        executions.begin(run, restart, 100.0 * restart + 101)
    rows = [executions.ending("TIMEOUT", 100.0 * (n + 1), failure=FailureClass.WALL_CLOCK) for n in range(4)]
    jobs = [toy.toy_job("k", resources=Resources(restarts=restarts)) for restarts in (0, 4)]
    states = [state_of(load(store, job, records=rows)) for job in jobs]
    assert states == [JobState.FAILED, JobState.INTERRUPTED]


def test_what_a_finished_job_suffered_before_speaks_against_its_node(store: Store) -> None:
    jobs = [toy.toy_job("k"), toy.toy_job("well")]
    run = toy.run_of(store, jobs[0])
    began = time.time() - 600
    executions.end(run, executions.begin(run, started_at=began), FailureClass.NODE_FAULT, began + 60)
    rows = [executions.ending("FAILED", began, failure=FailureClass.NODE_FAULT)]
    again = executions.ending(started_at=began + 100, id="13", batch="another", nodes="n2")
    toy.submit(store, jobs)
    for batches in ({}, {rows[0].batch: ["k"], "another": ["k"]}):  # the accounting tells of it, or the ledger alone
        known = {"k": [*([] if batches else rows), again], "well": [executions.ending(key="well")]}
        report = ClusterReport(accounting_records=known, batches=batches)
        snapshot = load_snapshot(jobs, store, toy.SWEEP, report)
        assert state_of(snapshot) is JobState.DONE
        assert not snapshot.runs["k"].outcomes
        blamed = [each.start.node for each in snapshot.read_node_evidence(began) if each.failure]
        assert blamed == ["n1"]
        assert not snapshot.read_node_evidence(time.time() + 60)  # it ended before


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_a_parent_that_ran_again_is_not_damaged_whatever_the_childs_clock_says(store: Store, hours: float) -> None:
    """The child's last attempt worked on the parent's result before this one."""
    jobs = [toy.toy_job("parent"), toy.toy_job("child", "parent")]
    toy.submit(store, jobs[:1])
    parent, child = (toy.run_of(store, job) for job in jobs)
    first = identify_result(parent.result)
    moment = parent.result.stat().st_mtime + hours * 3600
    start = executions.begin(child, started_at=moment, parents={"parent": first})
    executions.end(child, start, FailureClass.DAMAGED_INPUT, moment + 5, damaged_key="parent")
    assert load_snapshot(jobs, store, toy.SWEEP).find_damaged_parents() == {"parent": "child"}
    parent.result.write_text(parent.result.read_text().replace('"seconds": 0.5', '"seconds": 0.7'))
    assert load_snapshot(jobs, store, toy.SWEEP).find_damaged_parents() == {}


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_a_resume_names_the_attempts_that_it_forgives(store: Store, run: RunPaths, hours: float) -> None:
    """An attempt that failed is stamped hours ahead of, or behind, whoever resumes."""
    jobs = [toy.toy_job("k")]
    start = executions.begin(run, started_at=time.time() + hours * 3600)
    executions.end(run, start, FailureClass.CODE, start.started_at + 5)
    assert load_snapshot(jobs, store, toy.SWEEP).statuses["k"].state is JobState.FAILED
    Ledger(store.locate_sweep(toy.SWEEP).ledger).append_wishes(
        [load_snapshot(jobs, store, toy.SWEEP).build_resumption("k", "ann")]
    )
    assert load_snapshot(jobs, store, toy.SWEEP).statuses["k"].state is JobState.INTERRUPTED
    again = executions.begin(run, restart=1, started_at=time.time() - hours * 3600, order=1)
    executions.end(run, again, FailureClass.CODE, again.started_at + 5)
    assert load_snapshot(jobs, store, toy.SWEEP).statuses["k"].state is JobState.FAILED
