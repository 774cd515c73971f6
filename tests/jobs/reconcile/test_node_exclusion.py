"""Which nodes are kept away from, for how long, and that it is never the whole cluster."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.node_exclusion import (
    EXCLUSION_HOURS,
    compute_exclusion_limit,
    parse_node_list,
    select_avoided_nodes,
    select_excluded_nodes,
)
from jobs.store.records import FailureClass as F
from tests.jobs.reconcile.executions import ending, outcome

NOW = 1_000.0
LONG_AGO = NOW - EXCLUSION_HOURS * 3600 - 200


def names(*outcomes: AttemptRecord, **options: Any) -> list[str]:
    return [each.node for each in select_excluded_nodes(outcomes, NOW, **{"limit": 4, **options})]


def test_a_node_fault_excludes_its_node_for_a_while() -> None:
    (found,) = select_excluded_nodes([outcome(F.NODE_FAULT, message="ECC error")], NOW)
    assert (found.node, found.until, found.reason) == ("n1", 160.0 + 24 * 3600, "node fault: ECC error")
    assert names(outcome(F.NODE_FAULT, at=LONG_AGO)) == []
    assert names(outcome(F.NODE_FAULT, at=LONG_AGO), hours=48) == ["n1"]


def test_a_success_does_not_clear_a_node_fault() -> None:
    assert names(outcome(F.NODE_FAULT), outcome(key="other", at=500.0)) == ["n1"]


@pytest.mark.parametrize("failure", [F.KILLED, F.UNKNOWN, F.HUNG])
def test_two_different_jobs_that_end_for_no_known_reason_exclude_their_node(failure: F) -> None:
    assert names(outcome(failure)) == []
    assert names(outcome(failure), outcome(failure, at=200.0)) == []  # one job twice: it may be the job
    assert names(outcome(failure), outcome(failure, key="other")) == ["n1"]
    assert names(outcome(failure), outcome(failure, key="other", node="n2")) == []


def test_launches_that_fail_for_a_store_that_the_node_does_not_see_exclude_it() -> None:
    unlaunched = [outcome(F.STORAGE, key=key, began=False) for key in "ab"]
    assert names(*unlaunched) == ["n1"]
    assert names(*[outcome(F.STORAGE, key=key) for key in "ab"]) == []  # it saw the store: the disk is full everywhere


@pytest.mark.parametrize("failure", sorted({*F} - {F.KILLED, F.UNKNOWN, F.NODE_FAULT, F.HUNG}))
def test_other_ends_say_nothing_of_a_node(failure: F) -> None:
    assert names(*[outcome(failure, key=key) for key in "abc"]) == []


def test_a_later_success_on_the_node_clears_a_suspicion() -> None:
    pair = [outcome(F.KILLED, key=key) for key in "ab"]
    assert names(*pair, outcome(key="c", at=50.0)) == ["n1"]
    assert names(*pair, outcome(key="c", at=500.0)) == []
    assert names(*pair, outcome(F.PREEMPTED, key="c", at=500.0, advanced=True)) == []
    assert names(*pair, outcome(F.PREEMPTED, key="c", at=500.0)) == ["n1"]
    assert names(*pair, endings=[ending("COMPLETED", 500.0, nodes="n[1-2]")]) == []
    assert names(*pair, endings=[ending("FAILED", 500.0)]) == ["n1"]


def test_a_traceback_that_comes_on_several_nodes_speaks_against_the_code() -> None:
    everywhere = [outcome(F.UNKNOWN, key=key, node=node, traceback_digest="d") for key in "ab" for node in ("n1", "n2")]
    assert names(*everywhere) == []
    assert names(*[outcome(F.UNKNOWN, key=key, traceback_digest=key) for key in "ab"]) == ["n1"]


def test_of_several_nodes_the_cluster_may_know_the_one_to_blame() -> None:
    together = ending("NODE_FAIL", nodes="n[1-4]")
    assert names(outcome(F.NODE_FAULT, accounting_record=together)) == []
    blamed = ending("NODE_FAIL", nodes="n[1-4]", failed_node="n3")
    assert names(outcome(F.NODE_FAULT, accounting_record=blamed)) == ["n3"]
    other = outcome(F.NODE_FAULT, key="other", accounting_record=ending("NODE_FAIL", nodes="n[3,7]"))
    assert names(outcome(F.NODE_FAULT, accounting_record=together), other) == ["n3"]


def test_the_stage_may_name_the_one_of_several_nodes_that_failed() -> None:
    together = ending("FAILED", nodes="n[1-4]")
    assert names(outcome(F.NODE_FAULT, accounting_record=together, failed_node="n2")) == ["n2"]
    assert names(outcome(F.NODE_FAULT, accounting_record=together, failed_node="elsewhere")) == []


def test_a_fault_that_may_not_be_the_nodes_excludes_it_only_after_two_jobs() -> None:
    assert names(outcome(F.NODE_FAULT, node_unsure=True)) == []
    assert names(*[outcome(F.NODE_FAULT, key=key, node_unsure=True) for key in "ab"]) == ["n1"]
    everywhere = [
        outcome(F.NODE_FAULT, key=key, node=f"n{key}", node_unsure=True, traceback_digest="d") for key in "12"
    ]
    assert names(*everywhere) == []  # the file server, or a file that was shortened


def test_a_taken_port_says_nothing_of_the_node() -> None:
    assert names(*[outcome(F.PORT_TAKEN, key=key) for key in "abc"]) == []


def test_a_job_avoids_the_nodes_on_which_it_failed_itself() -> None:
    def avoided(*attempts: AttemptRecord) -> list[str]:
        return select_avoided_nodes(attempts, NOW)

    assert avoided(outcome(F.UNKNOWN, at=10), outcome(F.NODE_FAULT, node="n2", at=80)) == ["n2", "n1"]
    assert avoided(outcome(F.STORAGE, began=False), outcome(F.HUNG, node="n2")) == ["n2", "n1"]
    assert avoided(outcome(F.UNKNOWN), outcome(F.PREEMPTED, at=300.0, advanced=True)) == []  # it went well there since
    assert avoided(outcome(F.UNKNOWN, at=LONG_AGO)) == []
    assert avoided(outcome(F.CODE), outcome(F.OUT_OF_MEMORY), outcome(F.PORT_TAKEN)) == []
    several = ending("FAILED", nodes="n[1-4]")
    assert avoided(outcome(F.UNKNOWN, accounting_record=several)) == []
    assert avoided(outcome(F.NODE_FAULT, accounting_record=several, failed_node="n3")) == ["n3"]


def test_what_runs_on_no_cluster_excludes_nothing() -> None:
    assert names(outcome(F.NODE_FAULT, node="")) == []


def test_the_surest_and_newest_come_first_up_to_the_limit() -> None:
    outcomes = [
        *(outcome(F.KILLED, key=key, node="n1", at=300.0) for key in "ab"),
        outcome(F.NODE_FAULT, node="n2", at=100.0),
        outcome(F.NODE_FAULT, node="n3", at=200.0),
    ]
    assert names(*outcomes) == ["n3", "n2", "n1"]
    assert names(*outcomes, limit=1) == ["n3"]
    assert [compute_exclusion_limit(nodes) for nodes in (0, 1, 4, 7, 8, 1_000)] == [1, 1, 1, 1, 2, 250]


@given(
    st.lists(
        st.builds(
            outcome,
            st.sampled_from([None, *F]),
            key=st.sampled_from("abc"),
            node=st.sampled_from(["n1", "n2", "n3", "n[1-3]", ""]),
            at=st.floats(0, 2_000),
            began=st.booleans(),
        ),
        max_size=30,
    ),
    st.integers(1, 3),
)
def test_a_fault_of_ours_never_excludes_more_than_the_limit(outcomes: list[AttemptRecord], limit: int) -> None:
    found = select_excluded_nodes(outcomes, NOW, limit=limit)
    assert len({each.node for each in found}) == len(found) <= limit
    assert all(each.until > NOW and each.node in {"n1", "n2", "n3"} for each in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("n1", ("n1",)),
        ("n[1-3,7],login2", ("n1", "n2", "n3", "n7", "login2")),
        ("gpu[08-11]", ("gpu08", "gpu09", "gpu10", "gpu11")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")),
        ("n[1-2]-ib,n1", ("n1-ib", "n2-ib", "n1")),
        ("n[1", ("n[1",)),
    ],
)
def test_node_lists_are_unfolded(text: str, expected: tuple[str, ...]) -> None:
    assert parse_node_list(text) == expected


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader_of_node_lists(text: str) -> None:
    assert len(parse_node_list(text)) <= 4_096


def test_a_huge_range_is_cut() -> None:
    assert len(parse_node_list("n[0-999999999]")) == 4_096
    assert len(parse_node_list("a[0-4095]b[0-4095]")) == 4_096
