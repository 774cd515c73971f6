import os
from pathlib import Path

import pytest

from jobs.job import Resources
from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.slurm.batch_ledger import BatchLedger, read_batch_history
from jobs.slurm.batches import SlurmBatch
from jobs.store.ledger import Event, EventKind, Ledger, has_batches, is_withdrawn, read_events
from jobs.store.records import FailureClass
from tests.jobs.fake_clock import FakeClock

BATCH = SlurmBatch(name="sw-0123456789ab-pretrain-toy", phase="pretrain", tasks={0: "a", 3: "b"}, resources=Resources())


def ending(key: str, **content: object) -> AccountingRecord:
    defaults = {"id": "7_0", "batch": BATCH.name, "state": "COMPLETED", "submitted_at": 5.0}
    return AccountingRecord(key=key, **{**defaults, **content})  # type: ignore[arg-type]


def test_an_intent_is_a_doubt_until_slurm_has_answered(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    assert not has_batches(tmp_path)
    ledger.write_intent(BATCH, "me")
    [known] = read_batch_history(tmp_path).batches.values()
    assert known.submit_unknown
    assert (known.tasks, known.user) == ({0: "a", 3: "b"}, "me")
    ledger.write_sent(BATCH.name, "7")
    [known] = read_batch_history(tmp_path).batches.values()
    assert (known.id, known.submit_unknown) == ("7", False)
    assert has_batches(tmp_path)


def test_what_was_sent_after_all_is_not_void(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.write_intent(BATCH, "me")
    ledger.write_not_submitted(BATCH.name, "not found")
    assert read_batch_history(tmp_path).batches[BATCH.name].not_submitted_at > 0
    ledger.write_sent(BATCH.name, "7")
    assert not read_batch_history(tmp_path).batches[BATCH.name].not_submitted_at


def test_an_answer_counts_also_if_its_writers_clock_is_behind(tmp_path: Path) -> None:
    BatchLedger(Ledger(tmp_path)).write_intent(BATCH, "me")
    (tmp_path / "w-other.jsonl").write_text(f'{{"batch": "{BATCH.name}", "what": "sent", "time": 1.0, "id": "9"}}\n')
    assert read_batch_history(tmp_path).batches[BATCH.name].id == "9"


def test_a_batch_is_settled_when_every_task_has_ended(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.write_intent(BATCH, "me")
    ledger.write_sent(BATCH.name, "7")
    ledger.write_ended([ending("a", failure=FailureClass.NODE_FAULT)])
    assert len(read_batch_history(tmp_path).list_open_batches()) == 1
    ledger.write_ended([ending("b", id="7_3")])
    notes = read_batch_history(tmp_path)
    assert notes.list_open_batches() == []
    assert notes.accounting_records["a"][0].failure is FailureClass.NODE_FAULT


@pytest.mark.parametrize("state", [LOST, "NODE_FAIL", "PREEMPTED", "REQUEUED"])
def test_a_job_that_is_not_surely_over_is_asked_about_until_its_last_row_comes(tmp_path: Path, state: str) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.write_intent(BATCH, "me")
    ledger.write_sent(BATCH.name, "7")
    ledger.write_ended([ending("a"), ending("b", id="7_3", state=state, submitted_at=4.0)])  # the accounting lags
    assert len(read_batch_history(tmp_path).list_open_batches()) == 1
    ledger.write_ended([ending("b", id="7_3")])
    assert read_batch_history(tmp_path).list_open_batches() == []


def test_an_ending_that_two_writers_noted_counts_once(tmp_path: Path) -> None:
    for _ in range(2):
        writer = Ledger(tmp_path)
        writer.writer += f"-{_}"
        BatchLedger(writer).write_ended([ending("a"), ending("a", submitted_at=9.0)])
    assert [each.submitted_at for each in read_batch_history(tmp_path).accounting_records["a"]] == [5.0, 9.0]


def test_torn_and_foreign_lines_are_passed_over_and_lose_nothing_else(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    BatchLedger(ledger).write_intent(BATCH, "me")
    ledger.append([Event(event=EventKind.CANCELLED, key="a")])
    file = tmp_path / f"{ledger.writer}.jsonl"
    foreign = b'{"batch": "sw-x", "what": "intent"}\n{"batch": 3}\n{"ending": {"id": 1}}\n{"ending": 7}\n\xff\n'
    torn = foreign + b'{"batch": "sw-0'
    file.write_bytes(file.read_bytes() + torn)
    notes = read_batch_history(tmp_path)
    assert list(notes.batches) == [BATCH.name]
    assert notes.accounting_records == {}
    assert [event.event for event in read_events(tmp_path)] == [EventKind.CANCELLED]


def test_withdrawals_are_noted_by_batch(tmp_path: Path) -> None:
    ledger = BatchLedger(Ledger(tmp_path))
    ledger.write_intent(BATCH, "me")
    ledger.write_withdrawn({BATCH.name: ["b"]})
    assert list(read_batch_history(tmp_path).batches[BATCH.name].withdrawn) == ["b"]


def test_a_withdrawal_counts_by_the_order_of_its_writers_and_not_by_their_clocks(tmp_path: Path) -> None:
    """One whose clock is three hours ahead has kept the job in the queue; then another takes it out."""
    for hours, name in ((3, "ann"), (0, "bob")):
        ledger = BatchLedger(Ledger(tmp_path), FakeClock(1_000_000.0 + hours * 3600))
        ledger.ledger.writer = name
        if name == "ann":
            ledger.write_intent(BATCH, "me")
        ledger.write_withdrawn({BATCH.name: ["a"]})
        if name == "ann":
            ledger.write_kept({BATCH.name: ["a"]})
            assert not is_withdrawn(tmp_path, BATCH.name, "a")
    assert is_withdrawn(tmp_path, BATCH.name, "a")
    assert set(read_batch_history(tmp_path).batches[BATCH.name].withdrawn) == {"a"}


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_what_another_machine_wrote_is_as_old_as_the_file_server_says(tmp_path: Path, hours: float) -> None:
    """Its clock is hours off, and so is ours, by another amount: the batch was sent 40 s ago."""
    server_now, lead = 5_000_000.0, 777.0
    ledger = BatchLedger(Ledger(tmp_path), FakeClock(server_now - 40 + hours * 3600))
    ledger.ledger.writer = "w-elsewhere-7-1"
    ledger.write_intent(BATCH, "me")
    os.utime(tmp_path / "w-elsewhere-7-1.jsonl", (server_now - 40,) * 2)
    [known] = read_batch_history(tmp_path, lead).batches.values()
    assert server_now + lead - known.intended_at == pytest.approx(40)
    [as_written] = read_batch_history(tmp_path).batches.values()
    assert as_written.intended_at == server_now - 40 + hours * 3600
