"""The form of an accounting record in a ledger, also as version 0.1 wrote it."""

from dataclasses import asdict
from typing import Any

import pytest

from jobs.reconcile.accounting import deduplicate_records, encode_accounting_record, parse_accounting_record
from jobs.reconcile.failures import classify_failure
from jobs.store.records import FailureClass
from tests.jobs.reconcile.executions import ending, pending_ending

ROWS = [
    ending("COMPLETED"),
    ending("NODE_FAIL", failure=FailureClass.NODE_FAULT, failed_node="n2"),
    pending_ending("CANCELLED", failure=FailureClass.CANCELLED, cancelled_by_uid=0),
    pending_ending("CANCELLED"),
    ending("COMPLETED", gpu_kinds="a100_1g.5gb=4"),
]


@pytest.mark.parametrize("row", ROWS)
def test_a_record_comes_back_from_a_ledger_as_it_went(row: Any) -> None:
    assert parse_accounting_record(encode_accounting_record(row)) == row


def test_a_line_that_nobody_cancelled_is_the_one_of_version_0_1() -> None:
    assert {"cancelled_by_uid", "gpu_kinds"}.isdisjoint(encode_accounting_record(ROWS[1]))


def write_as_0_1(row: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name not in {"cancelled_by_uid", "gpu_kinds"}}


def test_who_cancelled_is_read_from_the_message_of_version_0_1() -> None:
    row = pending_ending("CANCELLED", failure=FailureClass.CANCELLED, message="cancelled by uid 4000001000")
    found = parse_accounting_record(write_as_0_1(row))
    assert found.cancelled_by_uid == 4_000_001_000
    failure = classify_failure(None, found)
    assert failure is not None
    assert failure.message == "cancelled with scancel by uid 4000001000"


def test_a_cancellation_by_slurm_stays_one_and_other_messages_are_not_searched() -> None:
    by_slurm = pending_ending("CANCELLED", message="cancelled by Slurm: the job before it did not end well")
    assert parse_accounting_record(write_as_0_1(by_slurm)).cancelled_by_uid is None
    failed = ending("FAILED", message="user says uid 7")
    assert parse_accounting_record(write_as_0_1(failed)).cancelled_by_uid is None


@pytest.mark.parametrize("content", [{}, {"id": "1"}, 7, {**write_as_0_1(ROWS[0]), "submitted_at": "noon"}])
def test_what_is_no_record_is_refused(content: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        parse_accounting_record(content)


def test_of_two_records_of_one_execution_the_last_counts() -> None:
    rows = [ending("FAILED", 200.0), ending("COMPLETED", 100.0), ending("REQUEUED", 200.0)]
    assert [row.state for row in deduplicate_records(rows)] == ["COMPLETED", "REQUEUED"]


def test_a_class_and_a_field_of_a_later_version_are_read_as_far_as_they_are_known() -> None:
    later = {**write_as_0_1(ROWS[0]), "failure": "melted", "rack": "r7"}
    assert parse_accounting_record(later).failure is FailureClass.UNKNOWN
