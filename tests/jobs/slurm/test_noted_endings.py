"""Ends that the ledgers note are parsed where somebody asks, and say the same as before."""

import json
from dataclasses import replace

import pytest

from jobs.reconcile.accounting import AccountingRecord, encode_accounting_record
from jobs.slurm import noted_endings
from jobs.slurm.noted_endings import MergedRecords, NotedEndings
from jobs.store.records import FailureClass

RECORD = AccountingRecord(
    id="7_3", batch="sw-0022b90ce275-evaluate-toy", key="k", state="COMPLETED", submitted_at=5.0, started_at=6.5,
    ended_at=1795957565.25, elapsed_seconds=3, gpus=4, cpus=8, nodes="n[1-2]", message="ended with code 0",
)  # fmt: skip


def line(record: AccountingRecord) -> bytes:
    return json.dumps({"ending": encode_accounting_record(record)}).encode()


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, state="FAILED", failure=FailureClass.NODE_FAULT, exit_code=1, failed_node="n1"),
        replace(RECORD, state="CANCELLED", cancelled_by_uid=1000, failure=FailureClass.CANCELLED),
        replace(RECORD, message='says "no", \\ and \u00e9'),
        replace(RECORD, key="a/b", batch="odd \\ name"),
    ],
)
def test_a_record_comes_back_as_it_was_noted(record: AccountingRecord) -> None:
    noted = NotedEndings([line(record)])
    assert noted[record.key] == [record]
    assert noted.read_last_message(record.key) == record.message
    (ending,) = noted.iter_endings()
    assert (ending.batch, ending.key, ending.state) == (record.batch, record.key, record.state)


def test_a_job_is_surely_over_with_one_end_that_no_requeue_follows() -> None:
    requeued = replace(RECORD, key="requeued", state="NODE_FAIL", submitted_at=1.0)
    noted = NotedEndings([line(requeued), line(replace(RECORD, key="remembered", remembered=True))])
    assert noted.settled == {(RECORD.batch, "requeued"): False, (RECORD.batch, "remembered"): False}
    others = NotedEndings([line(replace(RECORD, key="requeued")), line(replace(RECORD, key="foreign"))])
    noted.add_shared(others, {"requeued"})
    assert noted.settled == {(RECORD.batch, "requeued"): True, (RECORD.batch, "remembered"): False}
    assert [record.state for record in noted["requeued"]] == ["NODE_FAIL", "COMPLETED"]


def test_nothing_is_parsed_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    real = noted_endings.parse_ending

    def note(text: bytes) -> AccountingRecord | None:
        parsed.append(text)
        return real(text)

    monkeypatch.setattr(noted_endings, "parse_ending", note)
    noted = NotedEndings([line(replace(RECORD, key=f"k{number}")) for number in range(20)])
    assert len(noted) == 20
    assert len([ending for ending in noted.iter_endings() if ending.state == "COMPLETED"]) == 20
    assert {noted.read_last_message(key) for key in noted} == {RECORD.message}
    assert parsed == []
    assert noted["k3"][0].key == "k3"
    assert len(parsed) == 1


def test_a_note_of_a_later_version_is_read_without_what_is_new() -> None:
    later = line(RECORD).replace(b'"signal": 0', b'"signal": 0, "later": 1').replace(b"null", b'"no such class"', 1)
    (found,) = NotedEndings([later])[RECORD.key]
    assert found == replace(RECORD, failure=FailureClass.UNKNOWN)


@pytest.mark.parametrize(
    "text",
    [
        line(RECORD)[:-1],
        line(RECORD)[:80],
        b'{"ending": {"id": 7}}',
        b'{"ending": 3}',
        line(RECORD).replace(b'"signal": 0', b'"signal": "none", "later": 1'),
        line(RECORD).replace(b"null", b'["no class"]').replace(b'"gpus": 4', b'"gpus": 1e400'),
        b'{"ending": \xff}',
    ],
)
def test_a_torn_or_foreign_line_counts_for_nothing(text: bytes) -> None:
    noted = NotedEndings([text])
    assert len(noted) == 0


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        (line(RECORD).replace(b'"signal": 0', b'"signal": 0, "later": 1'), None),
        (line(RECORD).replace(b"null", b'"no such class"'), FailureClass.UNKNOWN),
    ],
    ids=["field", "class"],
)
def test_a_line_of_a_later_version_is_read_as_far_as_it_is_known(text: bytes, failure: FailureClass | None) -> None:
    noted = NotedEndings([text])
    assert noted[RECORD.key] == [replace(RECORD, failure=failure)]


def test_records_of_two_writers_and_two_sweeps_are_each_once_and_in_order() -> None:
    later = replace(RECORD, submitted_at=9.0)
    noted = NotedEndings([line(later), line(RECORD), line(RECORD)])
    assert noted["k"] == [RECORD, later]
    assert noted.read_last_message("k") == later.message
    noted.add_shared(NotedEndings([line(replace(RECORD, key="theirs")), line(replace(RECORD, id="8_0"))]), ["k"])
    assert [each.id for each in noted["k"]] == ["7_3", "8_0", "7_3"]
    assert list(noted) == ["k"]


def test_fresh_records_join_those_that_were_noted() -> None:
    fresh = {"k": [replace(RECORD, submitted_at=9.0)], "new": [replace(RECORD, key="new")]}
    merged = MergedRecords(NotedEndings([line(RECORD), line(replace(RECORD, key="other"))]), fresh)
    assert sorted(merged) == ["k", "new", "other"]
    assert len(merged) == 3
    assert [each.submitted_at for each in merged["k"]] == [5.0, 9.0]
    assert merged.get("none", ()) == ()
