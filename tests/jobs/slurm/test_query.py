from pathlib import Path

import pytest

from jobs.slurm.parsing import AccountRow, HiddenUsers, QueueRow, SlurmAnswer, SlurmAnswers
from jobs.slurm.query import read_fresh_answers, save_answers
from jobs.slurm.timeouts import SlurmTimeouts

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
