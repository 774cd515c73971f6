"""Which row of the cluster's accounting belongs to which attempt."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jobs.reconcile.accounting import CANCELLED_IN_QUEUE, LOST, AccountingRecord, deduplicate_records
from jobs.reconcile.attempts import match_records
from jobs.store.records import AttemptStart
from tests.jobs.reconcile.executions import BATCH, JOB, ending, pending_ending


def test_where_a_row_is_missing_the_times_decide() -> None:
    starts = [start_of(0, 102.0), start_of(1, 302.0), start_of(2, 502.0)]
    rows = [ending("REQUEUED", 100.0, 60), ending("FAILED", 500.0, 60)]
    found = match_records(starts, rows)
    assert {name: row.state for name, row in found.by_attempt.items()} == {"r0": "REQUEUED", "r2": "FAILED"}
    assert found.rest == ()


def test_a_row_that_lost_its_start_belongs_to_the_attempt_that_was_requeued_at_once() -> None:
    """As Slurm 22.05 wrote it: Start None, 0 s, but with a node."""
    starts = [start_of(0, 91.5), start_of(1, 99.9), start_of(2, 107.6)]
    rows = [
        ending("REQUEUED", 0.0, 0, submitted_at=90.0, ended_at=92.0),
        ending("PREEMPTED", 99.0, 2, submitted_at=93.0),
        ending("COMPLETED", 107.0, 12, submitted_at=101.0),
    ]
    found = match_records(starts, rows)
    assert {name: row.state for name, row in found.by_attempt.items()} == {
        "r0": "REQUEUED",
        "r1": "PREEMPTED",
        "r2": "COMPLETED",
    }


def test_a_missing_row_does_not_shift_the_others_onto_earlier_attempts() -> None:
    starts = [start_of(0, 91.5), start_of(1, 99.9), start_of(2, 107.6)]
    rows = [ending("PREEMPTED", 99.0, 2), ending("COMPLETED", 107.0, 12)]
    found = match_records(starts, rows)
    assert {name: row.state for name, row in found.by_attempt.items()} == {"r1": "PREEMPTED", "r2": "COMPLETED"}


def test_an_id_that_was_given_again_is_told_apart_by_the_batch() -> None:
    found = match_records([start_of(0, 102.0)], [ending(batch="sw-ffffffffffff-pretrain-toy")])
    assert not found.by_attempt
    assert len(found.rest) == 1


def test_a_row_of_another_time_is_no_row_of_the_attempt() -> None:
    assert not match_records([start_of(0, 5_000.0)], [ending()]).by_attempt
    assert match_records(
        [start_of(0, 5_000.0)], [ending(ended_at=0.0)]
    ).by_attempt  # it has not been told when it ended


def test_what_the_cluster_lost_closes_the_newest_attempt_of_that_id() -> None:
    lost = AccountingRecord(id=JOB, batch=BATCH, key="k", state=LOST, submitted_at=90.0)
    found = match_records([start_of(0, 102.0), start_of(1, 302.0)], [lost])
    assert list(found.by_attempt) == ["r1"]
    assert found.rest == ()


def cancelled_in_queue(ended_at: float) -> AccountingRecord:
    return AccountingRecord(
        id=JOB, batch=BATCH, key="k", state=CANCELLED_IN_QUEUE, submitted_at=90.0, ended_at=ended_at
    )


def test_an_attempt_counts_for_more_than_the_conclusion_that_its_job_was_cancelled_in_the_queue() -> None:
    concluded = cancelled_in_queue(0.0)
    assert match_records([start_of(0, 102.0)], [concluded]).rest == ()
    assert match_records([], [concluded]).rest == (concluded,)


def test_a_job_that_was_requeued_can_be_seen_to_be_cancelled_in_the_queue() -> None:
    seen = cancelled_in_queue(400.0)
    found = match_records([start_of(0, 102.0)], [ending("REQUEUED", 100.0, 60), seen])
    assert found.by_attempt.keys() == {"r0"}
    assert match_records([start_of(0, 102.0)], [seen]).rest == (seen,)


def test_a_row_that_comes_after_all_counts_in_place_of_that_conclusion() -> None:
    row = ending("FAILED", 100.0, 60)
    assert deduplicate_records([cancelled_in_queue(0.0), row]) == [row]
    assert deduplicate_records([cancelled_in_queue(0.0)]) == [cancelled_in_queue(0.0)]


def start_of(restart: int, started_at: float) -> AttemptStart:
    return AttemptStart(
        attempt=f"r{restart}",
        key="k",
        stage="pretrain",
        backend="slurm",
        host="h",
        pid=1,
        pid_started=0.0,
        boot_id="",
        started_at=started_at,
        job_id=JOB,
        batch=BATCH,
        restart=restart,
    )


def test_the_last_word_on_an_execution_counts() -> None:
    noted, fresh = ending("FAILED", exit_code=1), ending("REQUEUED", exit_code=1)
    other = ending("FAILED", 50.0)
    assert deduplicate_records([noted, other, fresh]) == [other, fresh]


def test_a_job_that_left_the_queue_did_not_run() -> None:
    assert not pending_ending().ran
    assert ending(seconds=0).ran  # shorter than a second
    assert ending(nodes="").ran
    assert ending().gpu_seconds == 240


@st.composite
def campaigns(draw: st.DrawFn) -> tuple[list[AttemptStart], list[AccountingRecord]]:
    """Executions of one job, one after another; of some there is no row, of some no attempt, some rows come twice."""
    starts, rows, clock = [], [], 1_000.0
    for restart in range(draw(st.integers(0, 6))):
        seconds = draw(st.integers(0, 500))
        state = draw(st.sampled_from(["FAILED", "REQUEUED", "PREEMPTED", "NODE_FAIL", "COMPLETED", "CANCELLED"]))
        if draw(st.booleans()):
            rows += [ending(state, clock, seconds)] * draw(st.integers(1, 2))
        if draw(st.booleans()):
            starts.append(start_of(restart, clock + min(seconds, draw(st.integers(0, 3)))))
        clock += seconds + draw(st.integers(1, 300))
    return starts, draw(st.permutations(rows))


@given(campaigns())
def test_every_row_has_one_place_and_fits_its_attempt(
    campaign: tuple[list[AttemptStart], list[AccountingRecord]],
) -> None:
    starts, rows = campaign
    found = match_records(starts, rows)
    assert sorted([*found.by_attempt.values(), *found.rest], key=lambda row: row.started_at) == deduplicate_records(
        rows
    )
    by_name = {start.attempt: start for start in starts}
    for name, row in found.by_attempt.items():
        assert row.started_at - 61 <= by_name[name].started_at <= row.ended_at + 61  # 60 s, and sacct cuts seconds


@given(campaigns())
def test_the_order_of_the_rows_does_not_matter(campaign: tuple[list[AttemptStart], list[AccountingRecord]]) -> None:
    starts, rows = campaign
    assert match_records(starts, rows) == match_records(starts, list(reversed(rows)))


def test_an_attempt_on_a_node_whose_clock_is_hours_off_has_its_row_by_the_clusters_own_time() -> None:
    """Slurm tells a job when it started it (SLURM_JOB_START_TIME)."""
    rows = [ending("NODE_FAIL", 1_000.0, 60), ending("FAILED", 2_000.0, 60)]
    starts = [
        replace(start_of(0, 1_003.0 + 3 * 3600), cluster_started_at=1_000.0),
        replace(start_of(1, 2_003.0 - 3 * 3600), cluster_started_at=2_000.0),
    ]
    found = match_records(starts, rows)
    assert [found.by_attempt[start.attempt].state for start in starts] == ["NODE_FAIL", "FAILED"]
    assert found.rest == ()
