"""The cluster's account of executions beside what the attempts wrote: who is who, and whose word counts."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.reconcile.failures import classify_failure, explain_idle_record
from jobs.store.paths import RunPaths, Store, write_json
from jobs.store.records import FailureClass as F
from tests.jobs.reconcile.executions import JOB, begin, end, ending, pending_ending

NAMELESS = 4_000_001_000
"""A user whom the system has no name for."""
BY_HAND: dict[str, Any] = {"failure": F.CANCELLED, "cancelled_by_uid": NAMELESS}


@pytest.fixture
def run(store: Store) -> RunPaths:
    return store.locate_run("pretrain", "k")


def read(run: RunPaths, *endings: AccountingRecord, live: bool = False) -> list[AttemptRecord]:
    return read_attempts(run, live=live, endings=endings)


ALONE = [
    # an execution without an attempt, its class (None: it counts for nothing), part of the message
    (ending("COMPLETED"), None, "nothing to do"),
    (ending("FAILED", exit_code=76), None, "another attempt"),
    (ending("FAILED", exit_code=77), None, "a parent"),
    (ending("REQUEUED", exit_code=76), None, "another attempt"),
    (ending("CANCELLED"), None, "taken out"),  # by us: no class
    (pending_ending("CANCELLED"), None, "taken out"),
    (pending_ending("CANCELLED", failure=F.CANCELLED), None, "taken out"),  # by Slurm, for a dependency: no uid
    (pending_ending(LOST), None, "never started"),
    (pending_ending(LOST, failure=F.KILLED, message="lost four times"), F.KILLED, "lost four times"),
    (pending_ending("CANCELLED", **BY_HAND), F.CANCELLED, "cancelled with scancel by uid 4000001000"),
    (ending("CANCELLED", **BY_HAND), F.CANCELLED, "cancelled with scancel by uid 4000001000"),
    (ending("CANCELLED", failure=F.CANCELLED), F.CANCELLED, "cancelled with scancel"),
    (ending("NODE_FAIL", failure=F.NODE_FAULT), F.NODE_FAULT, "its node failed (the cluster says NODE_FAIL)"),
    (pending_ending("BOOT_FAIL", failure=F.NODE_FAULT, message="boot failed"), F.NODE_FAULT, "boot failed"),
    (ending("PREEMPTED", failure=F.PREEMPTED), F.PREEMPTED, "took the nodes back"),
    (ending("REQUEUED"), F.PREEMPTED, "REQUEUED"),
    (ending("TIMEOUT", failure=F.WALL_CLOCK), F.WALL_CLOCK, "time limit"),
    (ending("OUT_OF_MEMORY", failure=F.OUT_OF_MEMORY), F.OUT_OF_MEMORY, "out of memory"),
    (ending("FAILED", exit_code=1), F.UNKNOWN, "ended with code 1 before the attempt began"),
    (ending("FAILED", exit_code=74), F.STORAGE, "store"),
    (ending("FAILED", exit_code=75), F.INTERRUPTED, "stopped on request"),
    (ending("FAILED", exit_code=78), F.UNKNOWN, "could not be set up"),
    (ending("FAILED", signal=9, message="JobLaunchFailure"), F.KILLED, "signal 9 before the attempt began (JobLaunchF"),
    (ending("FAILED", signal=11), F.UNKNOWN, "signal 11"),
    (ending("FAILED", signal=53), F.UNKNOWN, "output file"),
]


@pytest.mark.parametrize(("row", "failure", "words"), ALONE)
def test_an_execution_without_an_attempt_counts_if_something_went_wrong(
    row: AccountingRecord, failure: F | None, words: str, run: RunPaths
) -> None:
    verdict = classify_failure(None, row)
    assert (verdict.failure if verdict else None) is failure
    assert words in (verdict.message if verdict else explain_idle_record(row))
    outcomes = read(run, row)
    assert [outcome.failure for outcome in outcomes] == ([failure] if failure else [])
    assert not any(outcome.began or outcome.recorded or outcome.advanced for outcome in outcomes)


def test_an_outcome_without_attempt_tells_where_and_when(run: RunPaths) -> None:
    (found,) = read(run, ending("NODE_FAIL", failure=F.NODE_FAULT, nodes="n[2-3]"))
    assert (found.start.started_at, found.end.ended_at if found.end else 0) == (100.0, 160.0)
    assert (found.node, found.start.gpus, found.start.cpus, found.start.job_id) == ("n[2-3]", 4, 8, JOB)
    assert (found.start.stage, found.start.key) == ("pretrain", "k")
    assert not found.paths.root.exists()


WITH_RECORD = [
    # the attempt's own class, the cluster's row, the class that counts
    (F.KILLED, ending("OUT_OF_MEMORY", failure=F.OUT_OF_MEMORY), F.OUT_OF_MEMORY),
    (F.KILLED, ending("NODE_FAIL", failure=F.NODE_FAULT), F.NODE_FAULT),
    (F.KILLED, ending("TIMEOUT", failure=F.WALL_CLOCK), F.WALL_CLOCK),
    (F.INTERRUPTED, ending("TIMEOUT", failure=F.WALL_CLOCK), F.WALL_CLOCK),
    (F.INTERRUPTED, ending("PREEMPTED", failure=F.PREEMPTED), F.PREEMPTED),
    (F.INTERRUPTED, ending("REQUEUED"), F.PREEMPTED),
    (F.INTERRUPTED, ending("CANCELLED", **BY_HAND), F.CANCELLED),
    (F.PREEMPTED, ending("CANCELLED", **BY_HAND), F.CANCELLED),
    (F.PREEMPTED, ending("NODE_FAIL", failure=F.NODE_FAULT), F.NODE_FAULT),
    (F.UNKNOWN, ending("NODE_FAIL", failure=F.NODE_FAULT), F.NODE_FAULT),
    (F.INTERRUPTED, ending("CANCELLED"), F.INTERRUPTED),  # we stopped it
    (F.KILLED, ending("CANCELLED"), F.INTERRUPTED),
    (F.PREEMPTED, ending("CANCELLED"), F.PREEMPTED),
    (F.KILLED, ending("FAILED", exit_code=1), F.KILLED),
    (F.INTERRUPTED, ending("FAILED", exit_code=75), F.INTERRUPTED),
    (F.DIVERGED, ending("TIMEOUT", failure=F.WALL_CLOCK), F.DIVERGED),
    (F.DATA, ending("OUT_OF_MEMORY", failure=F.OUT_OF_MEMORY), F.DATA),
    (F.DAMAGED_INPUT, ending("NODE_FAIL", failure=F.NODE_FAULT), F.DAMAGED_INPUT),
    (F.CODE, ending("REQUEUED"), F.CODE),
    (F.OUT_OF_MEMORY, ending("NODE_FAIL", failure=F.NODE_FAULT), F.OUT_OF_MEMORY),
    (F.WALL_CLOCK, ending("PREEMPTED", failure=F.PREEMPTED), F.WALL_CLOCK),
    (F.WALL_CLOCK, ending("REQUEUED"), F.WALL_CLOCK),  # it requeued itself
    (F.WALL_CLOCK, ending("CANCELLED", **BY_HAND), F.CANCELLED),
    (None, ending("TIMEOUT", failure=F.WALL_CLOCK), None),
    (None, ending("CANCELLED", **BY_HAND), None),
]


@pytest.mark.parametrize(("own", "row", "failure"), WITH_RECORD)
def test_the_cluster_refines_a_record_that_names_no_cause(
    own: F | None, row: AccountingRecord, failure: F | None, run: RunPaths
) -> None:
    record = end(run, begin(run), own, 159.0, traceback_digest="d")
    (found,) = read(run, row)
    assert found.end is not None
    assert (found.failure, found.accounting_record, found.recorded) == (failure, row, True)
    assert found.end.ended_at == record.ended_at
    changed = failure is not own
    assert (found.end.message != record.message and not found.end.traceback_digest) if changed else found.end == record


WITHOUT_RECORD = [
    # the cluster's row, the class of an attempt that left no exit.json
    (ending("TIMEOUT", failure=F.WALL_CLOCK), F.WALL_CLOCK),
    (ending("NODE_FAIL", failure=F.NODE_FAULT), F.NODE_FAULT),
    (ending("PREEMPTED", failure=F.PREEMPTED), F.PREEMPTED),
    (ending("OUT_OF_MEMORY", failure=F.OUT_OF_MEMORY), F.OUT_OF_MEMORY),
    (ending("CANCELLED", **BY_HAND), F.CANCELLED),
    (ending("CANCELLED"), F.INTERRUPTED),
    (ending("REQUEUED"), F.PREEMPTED),
    (ending("FAILED", signal=9), F.KILLED),
    (ending("FAILED", exit_code=1), F.UNKNOWN),
    (ending("FAILED", signal=53), F.KILLED),
    (ending("COMPLETED"), F.KILLED),
]


@pytest.mark.parametrize(("row", "failure"), WITHOUT_RECORD)
def test_an_attempt_without_record_is_judged_by_the_cluster(row: AccountingRecord, failure: F, run: RunPaths) -> None:
    begin(run)
    (found,) = read(run, row)
    assert (found.failure, found.recorded, found.began) == (failure, False, True)
    assert found.end is not None
    assert found.end.ended_at == 160.0


def test_what_the_stage_named_wins_over_the_cluster_also_without_a_record(run: RunPaths) -> None:
    start = begin(run)
    write_json(run.locate_attempt(start.attempt).error, {"class": "diverged", "message": "loss is NaN"})
    (found,) = read(run, ending("NODE_FAIL", failure=F.NODE_FAULT))
    assert found.failure is F.DIVERGED


def test_memory_that_ran_out_without_cgroups_shows_in_the_log(run: RunPaths) -> None:
    start = begin(run)
    run.locate_attempt(start.attempt).log.write_text("slurmstepd: error: Exceeded job memory limit\n")
    (found,) = read(run, ending("FAILED", signal=9))
    assert found.failure is F.OUT_OF_MEMORY


def test_each_requeue_has_its_own_row(run: RunPaths) -> None:
    rows = [
        ending("PREEMPTED", 100.0, 60, failure=F.PREEMPTED),
        ending("NODE_FAIL", 200.0, 60, failure=F.NODE_FAULT),
        ending("TIMEOUT", 300.0, 60, failure=F.WALL_CLOCK),
    ]
    for restart in range(3):
        begin(run, restart, 100.0 * (restart + 1) + 2)
    for order in itertools.permutations(rows):
        assert [outcome.failure for outcome in read(run, *order)] == [F.PREEMPTED, F.NODE_FAULT, F.WALL_CLOCK]


def test_a_requeue_that_ended_before_its_attempt_began_stands_between(run: RunPaths) -> None:
    begin(run, 0, 102.0)
    begin(run, 2, 302.0)
    rows = [
        ending("PREEMPTED", 100.0, 60, failure=F.PREEMPTED),
        ending("NODE_FAIL", 200.0, 5, failure=F.NODE_FAULT, nodes="n2"),
        ending("FAILED", 300.0, 60, exit_code=1),
    ]
    found = read(run, *rows)
    assert [(outcome.began, outcome.node) for outcome in found] == [(True, "n1"), (False, "n2"), (True, "n1")]
    assert [outcome.failure for outcome in found] == [F.PREEMPTED, F.NODE_FAULT, F.UNKNOWN]


def test_an_attempt_that_lives_has_not_ended_whatever_the_cluster_says(run: RunPaths) -> None:
    begin(run)
    (found,) = read(run, ending("NODE_FAIL", failure=F.NODE_FAULT), live=True)  # slurmd is gone, the processes are not
    assert found.end is None


def test_an_execution_with_both_is_never_counted_twice(tmp_path: Path) -> None:
    run = Store(tmp_path).locate_run("pretrain", "k")
    end(run, begin(run), F.KILLED, 160.0)
    row = ending("FAILED", signal=9)
    assert len(read(run, row)) == len(read(run, row, replace(row, state="REQUEUED"))) == 1
