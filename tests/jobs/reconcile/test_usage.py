"""Seconds of GPUs and cores: the cluster's to the second, kept and lost together all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.reconcile.usage import Usage, compute_execution_usage
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass as F
from tests.jobs.reconcile.executions import begin, end, ending, outcome, pending_ending


@pytest.fixture
def run(store: Store) -> RunPaths:
    return store.locate_run("pretrain", "k")


def read(run: RunPaths, *endings: AccountingRecord) -> list[AttemptRecord]:
    return read_attempts(run, live=False, endings=endings)


def test_the_cluster_counts_the_seconds(run: RunPaths) -> None:
    end(run, begin(run, 0, 103.4), None, 158.8)
    row = ending(seconds=60)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert found.total == found.used == Usage(60, 480, 240)
    assert found.by_cluster
    assert (found.used.gpu_hours, found.used.cpu_hours) == (240 / 3600, 480 / 3600)


def test_what_a_checkpoint_kept_is_used_and_the_rest_is_lost(run: RunPaths) -> None:
    end(run, begin(run), F.PREEMPTED, 158.0, checkpoint_step=10, checkpoint_at=140.0)
    row = ending("PREEMPTED", failure=F.PREEMPTED)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert (found.used.gpu_seconds, found.wasted.gpu_seconds) == (160, 80)  # start-up belongs to the work that followed


def test_an_attempt_that_kept_nothing_is_lost_whole(run: RunPaths) -> None:
    end(run, begin(run, checkpoint_step=10), F.KILLED, 158.0, checkpoint_step=10, checkpoint_at=50.0)
    row = ending("FAILED", signal=9)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert (found.used.gpu_seconds, found.wasted.gpu_seconds) == (0, 240)


def test_a_checkpoint_that_the_next_attempt_did_not_find_kept_nothing(run: RunPaths) -> None:
    end(run, begin(run), F.PREEMPTED, 158.0, checkpoint_step=10, checkpoint_at=140.0)
    end(run, begin(run, 1, 203.0, checkpoint_step=-1), None, 258.0)
    rows = [ending("PREEMPTED", failure=F.PREEMPTED), ending("COMPLETED", 200.0)]
    first, second = compute_execution_usage(read(run, *rows), rows)
    assert (first.used.seconds, second.used.seconds) == (0, 60)


def test_executions_without_an_attempt_are_lost_whole(run: RunPaths) -> None:
    rows = [
        ending("NODE_FAIL", 100.0, 30, failure=F.NODE_FAULT),
        ending("FAILED", 200.0, 2, exit_code=76),  # it found another one at work, and cost two seconds
        ending("COMPLETED", 300.0, 3),
        pending_ending("CANCELLED", 400.0),
    ]
    found = compute_execution_usage(read(run, *rows), rows)
    assert [each.wasted.gpu_seconds for each in found] == [120, 8, 12]
    assert all(each.used == Usage() and not each.gpu_type for each in found)


def test_attempts_without_a_row_are_counted_by_their_own_records(run: RunPaths) -> None:
    end(run, begin(run), F.KILLED, 151.0, checkpoint_at=131.0)
    end(run, begin(run, 0, 301.0, attempt="other", job_id="99_1"), None, 351.5)
    row = ending("FAILED", seconds=60, signal=9)
    first, second = compute_execution_usage(read(run, row), [row])
    assert (first.by_cluster, first.used.seconds, first.wasted.seconds) == (True, 31, 29)
    assert (second.by_cluster, second.used.seconds, second.wasted.seconds) == (False, 50.5, 0.0)


def test_what_the_cluster_has_lost_is_counted_by_the_attempts_record(run: RunPaths) -> None:
    end(run, begin(run), F.KILLED, 151.0)
    row = pending_ending(LOST)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert (found.by_cluster, found.wasted.seconds) == (False, 50.0)


def test_an_execution_whose_start_the_cluster_lost_is_counted_by_its_row(run: RunPaths) -> None:
    end(run, begin(run, 0, 91.5), F.PREEMPTED, 92.8, checkpoint_step=3, checkpoint_at=92.7)
    row = ending("REQUEUED", 0.0, 0, submitted_at=90.0, ended_at=92.0)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert (found.by_cluster, found.total) == (True, Usage(0, 0, 0))


def test_what_lives_costs_nothing_yet(run: RunPaths) -> None:
    begin(run)
    assert [each.total.seconds for each in compute_execution_usage(read_attempts(run, live=True))] == []


def test_gpus_that_the_cluster_does_not_account_for_are_the_attempts_or_the_jobs(run: RunPaths) -> None:
    end(run, begin(run, gpus=8), None, 158.0)
    rows = [ending(gpus=0), ending("NODE_FAIL", 300.0, gpus=0, failure=F.NODE_FAULT)]
    first, second = compute_execution_usage(read(run, *rows), rows, gpus=2)
    assert (first.total.gpu_seconds, second.total.gpu_seconds) == (480, 120)


@pytest.mark.parametrize(("late", "seconds"), [(0, 0), (60, 0), (61, 61), (3_600, 3_600)])
def test_a_row_that_ends_long_after_its_attempt_is_flagged_and_stands(late: int, seconds: int, run: RunPaths) -> None:
    end(run, begin(run), None, 160.0)
    row = ending(seconds=60 + late)
    (found,) = compute_execution_usage(read(run, row), [row])
    assert found.overstated_seconds == seconds
    assert found.used.gpu_seconds == 4 * (60 + late)


def test_an_end_that_nobody_recorded_contradicts_nothing(run: RunPaths) -> None:
    start = begin(run)
    run.locate_attempt(start.attempt).log.write_text("")
    row = ending("NODE_FAIL", seconds=3_600, failure=F.NODE_FAULT)
    assert [each.overstated_seconds for each in compute_execution_usage(read(run, row), [row])] == [0]


def test_the_rows_that_outcomes_carry_serve_where_none_are_given(run: RunPaths) -> None:
    end(run, begin(run), None, 158.0)
    row = ending(seconds=59)
    assert compute_execution_usage(read(run, row)) == compute_execution_usage(read(run, row), [row])


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[AttemptRecord], list[AccountingRecord]]:
    """Executions of one job with whatever end, with and without attempts, with and without rows."""
    outcomes, rows, clock = [], [], 1_000.0
    for restart in range(draw(st.integers(0, 5))):
        seconds = draw(st.integers(1, 5_000))
        if draw(st.booleans()):
            rows.append(ending(draw(st.sampled_from(["FAILED", "PREEMPTED", "COMPLETED"])), clock, seconds))
        if draw(st.booleans()):
            advanced = draw(st.booleans())
            outcomes.append(
                outcome(
                    draw(st.sampled_from([None, F.KILLED, F.PREEMPTED])),
                    at=clock + draw(st.floats(0, 1)),
                    seconds=draw(st.floats(0, seconds)),
                    advanced=advanced,
                    checkpoint_at=clock + draw(st.floats(0, seconds)) if advanced else 0.0,
                    checkpoint_step=restart if advanced else -1,
                )
            )
        clock += seconds + 100
    return outcomes, rows


@given(lives())
def test_used_and_wasted_are_all_that_the_cluster_counted(
    life: tuple[list[AttemptRecord], list[AccountingRecord]],
) -> None:
    outcomes, rows = life
    found = compute_execution_usage(outcomes, rows)
    by_cluster = [each for each in found if each.by_cluster]
    used = sum(each.used.gpu_seconds for each in by_cluster)
    wasted = sum(each.wasted.gpu_seconds for each in by_cluster)
    assert used + wasted == sum(row.elapsed_seconds * row.gpus for row in rows)
    assert all(isinstance(each.used.gpu_seconds, int) for each in by_cluster)
    assert all(min(each.used.seconds, each.wasted.seconds) >= 0 for each in found)
    assert len(found) >= max(len(rows), len(outcomes))
