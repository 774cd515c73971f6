from pathlib import Path

import pytest

from jobs.job import Resources
from jobs.reconcile.executions import LOST, Ending
from jobs.slurm.batch_ledger import BatchLedger, read_notes
from jobs.slurm.batches import Batch
from jobs.store.ledger import Event, EventKind, Ledger, has_batches, read_events
from jobs.store.records import FailureClass

BATCH = Batch(name="sw-0123456789ab-pretrain-toy", phase="pretrain", tasks={0: "a", 3: "b"}, resources=Resources())


def ending(key: str, **content: object) -> Ending:
    defaults = {"id": "7_0", "batch": BATCH.name, "state": "COMPLETED", "submitted_at": 5.0}
    return Ending(key=key, **{**defaults, **content})  # type: ignore[arg-type]


def test_an_intent_is_a_doubt_until_slurm_has_answered(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    assert not has_batches(tmp_path)
    ledger.intent(BATCH, "me")
    [known] = read_notes(tmp_path).batches.values()
    assert known.in_doubt
    assert (known.tasks, known.user) == ({0: "a", 3: "b"}, "me")
    ledger.sent(BATCH.name, "7")
    [known] = read_notes(tmp_path).batches.values()
    assert (known.id, known.in_doubt) == ("7", False)
    assert has_batches(tmp_path)


def test_what_was_sent_after_all_is_not_void(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.intent(BATCH, "me")
    ledger.void(BATCH.name, "not found")
    assert read_notes(tmp_path).batches[BATCH.name].void_reason == "not found"
    ledger.sent(BATCH.name, "7")
    assert not read_notes(tmp_path).batches[BATCH.name].void_at


def test_an_answer_counts_also_if_its_writers_clock_is_behind(tmp_path: Path) -> None:
    BatchLedger(Ledger(tmp_path)).intent(BATCH, "me")
    (tmp_path / "w-other.jsonl").write_text(f'{{"batch": "{BATCH.name}", "what": "sent", "time": 1.0, "id": "9"}}\n')
    assert read_notes(tmp_path).batches[BATCH.name].id == "9"


def test_a_batch_is_settled_when_every_task_has_ended(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.intent(BATCH, "me")
    ledger.sent(BATCH.name, "7")
    ledger.ended([ending("a", failure=FailureClass.NODE_FAULT)])
    assert len(read_notes(tmp_path).open_batches()) == 1
    ledger.ended([ending("b", id="7_3")])
    notes = read_notes(tmp_path)
    assert notes.open_batches() == []
    assert notes.endings["a"][0].failure is FailureClass.NODE_FAULT


@pytest.mark.parametrize("state", [LOST, "NODE_FAIL", "PREEMPTED", "REQUEUED"])
def test_a_job_that_is_not_surely_over_is_asked_about_until_its_last_row_comes(tmp_path: Path, state: str) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.intent(BATCH, "me")
    ledger.sent(BATCH.name, "7")
    ledger.ended([ending("a"), ending("b", id="7_3", state=state, submitted_at=4.0)])  # the accounting lags
    assert len(read_notes(tmp_path).open_batches()) == 1
    ledger.ended([ending("b", id="7_3")])
    assert read_notes(tmp_path).open_batches() == []


def test_an_ending_that_two_writers_noted_counts_once(tmp_path: Path) -> None:
    for _ in range(2):
        writer = Ledger(tmp_path)
        writer.writer += f"-{_}"
        BatchLedger(writer).ended([ending("a"), ending("a", submitted_at=9.0)])
    assert [each.submitted_at for each in read_notes(tmp_path).endings["a"]] == [5.0, 9.0]


def test_torn_and_foreign_lines_are_passed_over_and_lose_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    BatchLedger(ledger).intent(BATCH, "me")
    ledger.append([Event(event=EventKind.CANCELLED, key="a")])
    file = tmp_path / f"{ledger.writer}.jsonl"
    foreign = b'{"batch": "sw-x", "what": "intent"}\n{"batch": 3}\n{"ending": {"id": 1}}\n{"ending": 7}\n\xff\n'
    torn = foreign + b'{"batch": "sw-0'
    file.write_bytes(file.read_bytes() + torn)
    notes = read_notes(tmp_path)
    assert list(notes.batches) == [BATCH.name]
    assert notes.endings == {}
    assert [event.event for event in read_events(tmp_path)] == [EventKind.CANCELLED]


def test_withdrawals_are_noted_by_batch(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.intent(BATCH, "me")
    ledger.withdrawn({BATCH.name: ["b"]})
    assert list(read_notes(tmp_path).batches[BATCH.name].withdrawn) == ["b"]
