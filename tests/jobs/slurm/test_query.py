import json
from collections.abc import Collection
from pathlib import Path

import pytest

from jobs.observation import ClusterState
from jobs.reconcile.accounting import LOST, AccountingRecord, encode_accounting_record
from jobs.slurm.batch_ledger import BatchHistory
from jobs.slurm.batches import KnownBatch
from jobs.slurm.noted_endings import NotedEndings
from jobs.slurm.parsing import AccountRow, HiddenUsers, QueueRow, SlurmAnswer, SlurmAnswers
from jobs.slurm.query import (
    SlurmSnapshot,
    add_recent_jobs,
    build_slurm_snapshot,
    drop_answers,
    has_ends_to_date,
    is_dropped,
    iter_newly_ended,
    list_other_senders,
    read_answers_mark,
    read_fresh_answers,
    save_answers,
)
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.paths import Store
from jobs.store.records import FailureClass

PATIENCE = SlurmTimeouts(cache_s=60, recheck_s=10)
QUEUE = SlurmAnswer(rows=(QueueRow(id="7_0", name="sw-aaaaaaaaaaaa-trunk-t", user="ann", state="RUNNING"),))
ACCOUNTING = SlurmAnswer(rows=(AccountRow(id="6_0", name="sw-bbbbbbbbbbbb-trunk-t", state="FAILED", exit_code=3),))
DOWN: SlurmAnswer[QueueRow] = SlurmAnswer(problem="Unable to contact slurm controller (connect failure)")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slurm-answers.json"


def test_answers_come_back_as_they_were(path: Path) -> None:
    hidden = HiddenUsers(queue=frozenset({"ann", "bob"}), records=frozenset({"bob"}))
    given = SlurmAnswers(QUEUE, ACCOUNTING, 1000.0, hidden, controller_time=990.0)
    save_answers(path, given)
    kept = read_fresh_answers(path, 1060.0, PATIENCE)
    assert kept is not None
    assert kept == given
    assert isinstance(kept.queue.rows[0], QueueRow)
    assert isinstance(kept.accounting.rows[0], AccountRow)


def test_what_another_user_was_shown_of_a_cluster_that_hides_jobs_does_not_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann's own jobs are hidden from bob, whose answer lies in the same store."""
    monkeypatch.setattr("jobs.slurm.query.read_user_name", lambda: "bob")
    save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0, HiddenUsers(queue=frozenset({"ann"}))))
    assert read_fresh_answers(path, 1010.0, PATIENCE) is not None
    monkeypatch.setattr("jobs.slurm.query.read_user_name", lambda: "ann")
    assert read_fresh_answers(path, 1010.0, PATIENCE) is None
    save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0))  # nothing was hidden from her
    monkeypatch.setattr("jobs.slurm.query.read_user_name", lambda: "bob")
    assert read_fresh_answers(path, 1010.0, PATIENCE) is not None


@pytest.mark.parametrize("now", [1060.1, 999.0], ids=["too old", "of the future"])
def test_answers_of_another_time_are_not_shown(path: Path, now: float) -> None:
    save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0))
    assert read_fresh_answers(path, now, PATIENCE) is None


def test_a_failed_answer_is_kept_for_a_shorter_time(path: Path) -> None:
    save_answers(path, SlurmAnswers(DOWN, ACCOUNTING, 1000.0))
    kept = read_fresh_answers(path, 1010.0, PATIENCE)
    assert kept is not None
    assert kept.queue.problem == DOWN.problem
    assert read_fresh_answers(path, 1010.1, PATIENCE) is None


def test_a_cluster_without_accounting_has_not_failed(path: Path) -> None:
    save_answers(
        path, SlurmAnswers(QUEUE, SlurmAnswer(problem="Slurm accounting storage is disabled", absent=True), 1000.0)
    )
    assert read_fresh_answers(path, 1050.0, PATIENCE) is not None


def test_what_was_asked_before_the_last_submission_does_not_count(path: Path) -> None:
    save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0))
    assert read_fresh_answers(path, 1010.0, PATIENCE, not_before=1001.0) is None
    assert read_fresh_answers(path, 1010.0, PATIENCE, not_before=1000.0) is not None


def test_who_changes_the_queue_drops_the_answers_of_all_sweeps_of_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    paths = [store.locate_sweep(name).slurm_answers for name in ("own", "other")]
    for each in (*paths, store.locate_sweep("never-asked").slurm_answers):
        each.parent.mkdir(parents=True)
    assert is_dropped(paths[0])  # nothing is kept
    for each in paths:
        save_answers(each, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0))
    assert [is_dropped(each) for each in paths] == [False, False]
    drop_answers(store, "own")
    assert [is_dropped(each) for each in paths] == [True, True]
    assert [read_fresh_answers(each, 1001.0, PATIENCE) for each in paths] == [None, None]
    assert not store.locate_sweep("never-asked").slurm_answers.exists()


def test_a_reader_who_asked_before_the_queue_was_changed_does_not_keep_what_it_was_told(tmp_path: Path) -> None:
    path = Store(tmp_path).locate_sweep("own").slurm_answers
    path.parent.mkdir(parents=True)
    for _ in range(2):  # without kept answers, and with a dropped one
        mark = read_answers_mark(path)
        drop_answers(Store(tmp_path), "own")
        save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0), unless_changed=mark)
        assert read_fresh_answers(path, 1001.0, PATIENCE) is None
    save_answers(path, SlurmAnswers(QUEUE, ACCOUNTING, 1000.0), unless_changed=read_answers_mark(path))
    assert read_fresh_answers(path, 1001.0, PATIENCE) is not None


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"format": 1', '{"format": 2, "time": 1000}', '{"format": 1, "time": 1000, "queue": {"rows": [[1]]}}'],
    ids=["empty", "a list", "torn", "another version", "too few fields"],
)
def test_a_damaged_file_is_passed_over(path: Path, content: str) -> None:
    path.write_text(content)
    assert read_fresh_answers(path, 1000.0, PATIENCE) is None


def test_an_absent_file_is_no_answer(path: Path) -> None:
    assert read_fresh_answers(path, 1000.0, PATIENCE) is None


def test_a_store_that_refuses_the_write_stops_nobody(path: Path) -> None:
    path.parent.joinpath("file").write_text("")
    save_answers(path.parent / "file" / "slurm-answers.json", SlurmAnswers(QUEUE, ACCOUNTING, 1000.0))
    assert read_fresh_answers(path.parent / "file" / "slurm-answers.json", 1000.0, PATIENCE) is None


# --- what was noted of an end, and what sacct says of it later


NAME = "sw-aaaaaaaaaaaa-trunk-t"
REMEMBERED = AccountingRecord(
    id="7_0", batch=NAME, key="a", state="CANCELLED", failure=FailureClass.CANCELLED, submitted_at=100.0,
    started_at=110.0, ended_at=150.0, nodes="n1", message="cancelled with scancel", remembered=True,
)  # fmt: skip
DOUBTED = AccountingRecord(
    id="7_0", batch=NAME, key="a", state=LOST, submitted_at=100.7, doubt="sent by ann, whose records are hidden"
)
ROW = AccountRow(
    id="7_0", name=NAME, state="CANCELLED", by_uid="1000", submitted_at=100.0, started_at=110.0, ended_at=150.0,
    elapsed_seconds=40, cpus=8, gpus=4, nodes="n1",
)  # fmt: skip


def build_history(*noted: AccountingRecord) -> BatchHistory:
    """Of one job that was sent, with what the ledgers note of its end."""
    batch = KnownBatch(name=NAME, phase="trunk", tasks={0: "a"}, user="ann", intended_at=100.2, id="7", sent_at=100.7)
    lines = (json.dumps({"ending": encode_accounting_record(record)}).encode() for record in noted)
    return BatchHistory(batches={NAME: batch}, accounting_records=NotedEndings(lines))


def look(history: BatchHistory, *rows: AccountRow) -> SlurmSnapshot:
    answers = SlurmAnswers(SlurmAnswer(), SlurmAnswer(rows=rows), 1000.0)
    return build_slurm_snapshot("t", history, answers, PATIENCE)


def test_a_row_that_comes_after_an_end_which_the_controller_remembered_is_noted_and_counts() -> None:
    history = build_history(REMEMBERED)
    assert history.list_open_batches()
    (row,) = iter_newly_ended(look(history, ROW), PATIENCE)
    assert (row.cancelled_by_uid, row.gpus, row.remembered) == (1000, 4, False)
    for noted in ((REMEMBERED, row), (row, REMEMBERED)):  # the ledgers of two people have no order
        after = build_history(*noted)
        assert not after.list_open_batches()
        assert after.accounting_records["a"] == [row]
        assert list(iter_newly_ended(look(after, ROW), PATIENCE)) == []


def test_a_row_that_comes_after_all_ends_the_doubt_about_who_cancelled_a_job() -> None:
    """The row was submitted by the controller's clock, a little before sbatch's answer was noted by ours."""
    doubted = build_history(DOUBTED)
    assert look(doubted).reconciled.observations["a"].doubt == DOUBTED.doubt
    found = look(doubted, ROW)
    assert found.reconciled.observations["a"].doubt == ""
    (row,) = iter_newly_ended(found, PATIENCE)
    seen = look(build_history(DOUBTED, row)).reconciled.observations["a"]
    assert (seen.state, seen.doubt, seen.message) == (ClusterState.ENDED, "", "cancelled by uid 1000")


def test_an_execution_that_was_requeued_says_nothing_of_how_the_last_one_ended() -> None:
    requeued = ROW._replace(state="REQUEUED", by_uid="")
    assert look(build_history(DOUBTED), requeued).reconciled.observations["a"].doubt == DOUBTED.doubt


class RememberingController:
    """Stands beside SlurmClient: has forgotten task 0, and remembers that task 1 ended well and that task 2 runs."""

    rows = tuple(
        QueueRow(id=f"7_{index}", name=NAME, user="ann", state=state)
        for index, state in ((1, "COMPLETED"), (2, "RUNNING"))
    )

    def query_recent_jobs(self, ids: Collection[str]) -> SlurmAnswer[QueueRow]:
        assert "7_0" in ids
        return SlurmAnswer(rows=self.rows)


def test_an_array_whose_other_tasks_are_all_accounted_for_still_tells_of_a_task_that_was_cancelled_in_it() -> None:
    """Its rows were left out of what the controller remembers, and the task was sent once more."""
    history = build_history()
    history.batches[NAME].tasks |= {1: "b", 2: "c"}
    rows = SlurmAnswer(rows=(ROW._replace(id="7_1", state="COMPLETED", by_uid=""),))
    queue = SlurmAnswer(rows=RememberingController.rows[1:])
    both = add_recent_jobs(RememberingController(), history, queue, rows)  # type: ignore[arg-type]
    assert sorted(row.id for row in both.rows) == ["7_1", "7_2"]
    alone = add_recent_jobs(RememberingController(), history, SlurmAnswer(), rows)  # type: ignore[arg-type]
    answers = SlurmAnswers(SlurmAnswer(rows=alone.rows[:1]), rows, 1000.0)
    found = build_slurm_snapshot("t", history, answers, PATIENCE, {"a": 900.0}).reconciled
    assert found.accounting_records["a"][0].failure is FailureClass.CANCELLED


# --- what a round asks beside squeue and sacct


def in_queue(state: str, id: str = "7_0") -> SlurmAnswer[QueueRow]:
    return SlurmAnswer(rows=(QueueRow(id=id, name=NAME, user="ann", state=state),))


@pytest.mark.parametrize(
    ("queue", "row", "matters"),
    [
        (SlurmAnswer(), ROW._replace(state="PREEMPTED", by_uid=""), True),
        (in_queue("RUNNING"), ROW._replace(state="PREEMPTED", by_uid=""), False),
        (in_queue("PENDING"), ROW._replace(state="NODE_FAIL", by_uid=""), False),
        (SlurmAnswer(), ROW, False),
        (SlurmAnswer(), ROW._replace(shared=True), True),
        (SlurmAnswer(), ROW._replace(id="7"), False),
        (in_queue("COMPLETED"), ROW._replace(name="foreign"), True),
        (SlurmAnswer(), ROW._replace(name="foreign", state="PREEMPTED"), False),
    ],
    ids=[
        "requeued or lost",
        "runs again",
        "waits again",
        "final",
        "of several",
        "array of one task",
        "just left",
        "foreign",
    ],
)
def test_the_controllers_clock_is_asked_only_where_an_age_decides_something(
    queue: SlurmAnswer[QueueRow], row: AccountRow, *, matters: bool
) -> None:
    """A job that was requeued once would cost a call in each round for as long as its array is open."""
    assert has_ends_to_date(build_history(), queue, SlurmAnswer(rows=(row,))) is matters


def test_noted_ends_need_no_clock() -> None:
    preempted = SlurmAnswer(rows=(ROW._replace(state="PREEMPTED", by_uid=""),))
    assert not has_ends_to_date(build_history(REMEMBERED), SlurmAnswer(), preempted)


def test_whether_a_user_is_hidden_is_asked_only_while_some_job_of_theirs_is_missed() -> None:
    history = build_history()
    assert list_other_senders(history, in_queue("RUNNING")) == set()
    assert list_other_senders(history, SlurmAnswer()) == {"ann"}
    assert list_other_senders(history, in_queue("COMPLETED")) == {"ann"}
    assert list_other_senders(history, in_queue("RUNNING", id="7_1")) == {"ann"}
    assert list_other_senders(build_history(REMEMBERED), SlurmAnswer()) == set()
