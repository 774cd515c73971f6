"""Facts of a job in a cluster's hands: the table of what follows from which evidence, and what holds for all of it."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from jobs.reconcile.truth import (
    ClusterEvidence,
    Fact,
    QueueSight,
    RecordSight,
    Truth,
    judge_evidence,
)

YES, NO, UNKNOWN = Truth.YES, Truth.NO, Truth.UNKNOWN
SHOWN, NOT_SHOWN, HIDDEN, SILENT = QueueSight.SHOWN, QueueSight.NOT_SHOWN, QueueSight.HIDDEN, QueueSight.SILENT
R = RecordSight


def evidence(queue: QueueSight, record: RecordSight, **others: Any) -> ClusterEvidence:
    return ClusterEvidence(
        queue=queue, record=record, owner="alice", problem="Unable to contact slurm controller", **others
    )


LONG = {"missed_for_long": True}
CASES: list[tuple[ClusterEvidence, tuple[Truth, Truth, Truth, Truth]]] = [
    # in the queue, ended, cancelled by a person, may be sent
    (evidence(SHOWN, R.NONE), (YES, NO, NO, NO)),
    (evidence(SHOWN, R.PASSING, record_is_old=True), (YES, NO, NO, NO)),
    (evidence(SHOWN, R.HIDDEN), (YES, NO, NO, NO)),
    (evidence(NOT_SHOWN, R.FINAL), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.FINAL, cancelled_by_person=True), (NO, YES, YES, NO)),
    (evidence(HIDDEN, R.FINAL), (NO, YES, NO, YES)),
    (evidence(HIDDEN, R.FINAL, cancelled_by_person=True), (NO, YES, YES, NO)),
    (evidence(SILENT, R.FINAL), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.PASSING), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(NOT_SHOWN, R.PASSING, record_is_old=True), (NO, YES, NO, YES)),
    (evidence(HIDDEN, R.PASSING, record_is_old=True), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(HIDDEN, R.NONE, **LONG), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(HIDDEN, R.HIDDEN, withdrawn=True, **LONG), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(SILENT, R.OPEN, **LONG), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(NOT_SHOWN, R.NONE), (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)),
    (evidence(NOT_SHOWN, R.NONE, **LONG), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.OPEN, **LONG), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.NONE, withdrawn=True), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.NONE, remembered="FAILED", record_is_due=True, **LONG), (UNKNOWN,) * 4),
    (evidence(NOT_SHOWN, R.NONE, remembered="CANCELLED", record_is_due=True, **LONG), (UNKNOWN,) * 4),
    (evidence(NOT_SHOWN, R.NONE, remembered="CANCELLED"), (NO, YES, YES, NO)),
    (evidence(NOT_SHOWN, R.NONE, remembered="CANCELLED", remembered_dependency=True, **LONG), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.SWITCHED_OFF, remembered="CANCELLED"), (NO, YES, YES, NO)),
    (evidence(NOT_SHOWN, R.SWITCHED_OFF, remembered="CANCELLED", withdrawn=True), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.SWITCHED_OFF, remembered="FAILED", **LONG), (NO, YES, NO, YES)),
    (evidence(NOT_SHOWN, R.SWITCHED_OFF, **LONG), (NO, YES, UNKNOWN, UNKNOWN)),
    (evidence(NOT_SHOWN, R.SILENT, **LONG), (NO, YES, UNKNOWN, UNKNOWN)),
    (evidence(NOT_SHOWN, R.SILENT, remembered="CANCELLED"), (NO, YES, YES, NO)),
    (evidence(NOT_SHOWN, R.HIDDEN, **LONG), (NO, YES, UNKNOWN, UNKNOWN)),
]


@pytest.mark.parametrize(("seen", "expected"), CASES)
def test_what_follows_from_the_evidence(seen: ClusterEvidence, expected: tuple[Truth, ...]) -> None:
    facts = judge_evidence(seen)
    found = (facts.in_queue, facts.ended, facts.cancelled, facts.may_send)
    assert tuple(fact.truth for fact in found) == expected


@pytest.mark.parametrize(
    ("seen", "accounted"),
    [
        (evidence(NOT_SHOWN, R.FINAL), YES),
        (evidence(SHOWN, R.NONE), NO),
        (evidence(NOT_SHOWN, R.SWITCHED_OFF, **LONG), UNKNOWN),
        (evidence(NOT_SHOWN, R.SILENT, **LONG), UNKNOWN),
        (evidence(HIDDEN, R.NONE), UNKNOWN),
        (evidence(NOT_SHOWN, R.HIDDEN, **LONG), UNKNOWN),
        (evidence(NOT_SHOWN, R.NONE, **LONG), UNKNOWN),
    ],
)
def test_hours_are_known_only_from_a_record(seen: ClusterEvidence, accounted: Truth) -> None:
    assert judge_evidence(seen).accounted.truth is accounted


def all_evidence() -> Iterator[ClusterEvidence]:
    flags = ("record_is_old", "record_is_due", "cancelled_by_person", "remembered_dependency", "withdrawn")
    for queue, record, remembered, missed in product(
        QueueSight, RecordSight, ("", "FAILED", "CANCELLED"), (False, True)
    ):
        for chosen in product((False, True), repeat=len(flags)):
            given = dict(zip(flags, chosen, strict=True))
            yield evidence(queue, record, remembered=remembered, missed_for_long=missed, **given)


def test_a_job_is_sent_only_where_every_fact_is_known() -> None:
    sent = 0
    for seen in all_evidence():
        facts = judge_evidence(seen)
        if facts.may_send.truth is not YES:
            continue
        sent += 1
        assert (facts.in_queue.truth, facts.ended.truth, facts.cancelled.truth) == (NO, YES, NO)
        assert seen.queue is NOT_SHOWN or seen.record is R.FINAL
    assert sent > 100


def test_what_is_hidden_or_silent_makes_nothing_surer() -> None:
    for seen in all_evidence():
        may_send = judge_evidence(seen).may_send.truth
        for queue in (HIDDEN, SILENT):
            dimmed = judge_evidence(replace(seen, queue=queue)).may_send.truth
            assert dimmed is not YES or may_send is YES or seen.queue is SHOWN
        for record in (R.HIDDEN, R.SILENT, R.SWITCHED_OFF):
            dimmed = judge_evidence(replace(seen, record=record, record_words="")).may_send.truth
            assert dimmed is not YES or seen.withdrawn or seen.remembered


def test_an_unknown_fact_says_why_and_what_would_settle_it() -> None:
    for seen in all_evidence():
        facts = judge_evidence(seen)
        for fact in (facts.in_queue, facts.ended, facts.cancelled, facts.may_send):
            assert fact.known or (fact.reason and fact.remedy)
        assert facts.accounted.known or facts.accounted.reason


def test_a_fact_cannot_be_used_as_a_boolean() -> None:
    with pytest.raises(TypeError, match="three values"):
        assert Fact(UNKNOWN)
