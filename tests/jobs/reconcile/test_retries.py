import itertools

import pytest

from jobs.job import Resources
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.retries import RetryDecision, choose_memory_gib, decide_retry
from jobs.store.ledger import Resumption
from jobs.store.paths import AttemptPaths, Store
from jobs.store.records import AttemptExit, AttemptStart
from jobs.store.records import FailureClass as F
from tests.jobs.toy import toy_job


def outcome(
    store: Store, number: int, failure: F | None, *, advanced: bool = False, digest: str = "", node: str = ""
) -> AttemptRecord:
    name = f"local-{number:04d}"
    start = AttemptStart(
        attempt=name,
        key="k",
        stage="pretrain",
        backend="local",
        host="h",
        pid=1,
        pid_started=0.0,
        boot_id="b",
        started_at=10.0 * (number + 1),
        node=node,
    )
    end = AttemptExit(
        attempt=name, key="k", ended_at=10.0 * number + 15, returncode=1, failure=failure, traceback_digest=digest
    )
    return AttemptRecord(paths=AttemptPaths(store.root / name), start=start, end=end, advanced=advanced)


def judged(store: Store, *failures: F | None, advanced: bool = False, digests: tuple[str, ...] = ()) -> RetryDecision:
    marks = digests or ("",) * len(failures)
    pairs = enumerate(zip(failures, marks, strict=True))
    return decide_retry(
        [outcome(store, number, failure, advanced=advanced, digest=mark) for number, (failure, mark) in pairs]
    )


@pytest.mark.parametrize("failure", [F.DIVERGED, F.DATA, F.CODE, F.CANCELLED])
def test_what_would_end_the_same_way_stops_at_once(store: Store, failure: F) -> None:
    assert judged(store, failure) is RetryDecision.STOP


@pytest.mark.parametrize(
    ("failure", "retries"),
    [
        (F.KILLED, 3),
        (F.NODE_FAULT, 3),
        (F.OUT_OF_MEMORY, 1),
        (F.DAMAGED_INPUT, 1),
        (F.UNKNOWN, 2),
        (F.WALL_CLOCK, 2),
        (F.PREEMPTED, 19),
        (F.HUNG, 2),
        (F.PORT_TAKEN, 3),
    ],
)
def test_each_class_has_its_budget_of_retries(store: Store, failure: F, retries: int) -> None:
    assert judged(store, *[failure] * retries) is RetryDecision.GO_ON
    assert judged(store, *[failure] * (retries + 1)) is RetryDecision.STOP


def test_progress_renews_the_budget_of_faults_but_not_of_memory(store: Store) -> None:
    assert judged(store, *[F.KILLED] * 30, advanced=True) is RetryDecision.GO_ON
    assert judged(store, *[F.OUT_OF_MEMORY] * 2, advanced=True) is RetryDecision.STOP


def test_a_stop_on_request_costs_no_budget(store: Store) -> None:
    assert judged(store, *[F.INTERRUPTED] * 50) is RetryDecision.GO_ON


def test_a_store_that_refuses_is_tried_again_but_not_for_ever(store: Store) -> None:
    assert judged(store, *[F.STORAGE] * 9, digests=("a",) * 9) is RetryDecision.GO_ON
    assert judged(store, *[F.STORAGE] * 10) is RetryDecision.STOP
    assert judged(store, *[F.STORAGE] * 30, advanced=True) is RetryDecision.GO_ON


def test_budgets_are_apart(store: Store) -> None:
    assert judged(store, F.KILLED, F.OUT_OF_MEMORY, F.KILLED, F.UNKNOWN, F.KILLED) is RetryDecision.GO_ON


def test_the_same_traceback_twice_is_not_tried_a_third_time(store: Store) -> None:
    assert judged(store, F.UNKNOWN, digests=("a",)) is RetryDecision.GO_ON
    assert judged(store, F.UNKNOWN, F.UNKNOWN, digests=("a", "b")) is RetryDecision.GO_ON
    assert judged(store, F.UNKNOWN, F.KILLED, F.UNKNOWN, digests=("a", "", "a")) is RetryDecision.STOP


@pytest.mark.parametrize(
    ("nodes", "decision"),
    [
        (("n1", "n1"), RetryDecision.GO_ON),  # the node may be to blame
        (("n1", "n2"), RetryDecision.STOP),
        (("n[1-2]", "n[2-3]"), RetryDecision.GO_ON),
        (("n[1-2]", "n[3-4]"), RetryDecision.STOP),
    ],
)
def test_the_same_traceback_counts_only_from_two_different_nodes(
    store: Store, nodes: tuple[str, str], decision: RetryDecision
) -> None:
    pair = [outcome(store, number, F.UNKNOWN, digest="a", node=node) for number, node in enumerate(nodes)]
    assert decide_retry(pair) is decision
    assert decide_retry([*pair, outcome(store, 2, F.UNKNOWN, digest="a", node=nodes[0])]) is RetryDecision.STOP


def test_a_broken_link_may_show_the_same_traceback_on_every_node(store: Store) -> None:
    assert judged(store, F.NODE_FAULT, F.NODE_FAULT, digests=("a", "a")) is RetryDecision.GO_ON


def test_a_job_without_attempts_is_new_and_one_whose_result_was_lost_goes_on(store: Store) -> None:
    assert decide_retry([]) is RetryDecision.NEW
    assert judged(store, None) is RetryDecision.GO_ON


def test_attempts_before_a_resume_do_not_count(store: Store) -> None:
    failed = outcome(store, 1, F.CODE)
    seen = Resumption(attempts=frozenset({failed.start.attempt}))
    assert decide_retry([failed], resumption=Resumption(attempts=frozenset({"another"}))) is RetryDecision.STOP
    assert decide_retry([failed], resumption=seen) is RetryDecision.GO_ON
    assert decide_retry([failed, outcome(store, 2, F.CODE)], resumption=seen) is RetryDecision.STOP


def test_a_resume_of_an_earlier_version_counts_by_its_time(store: Store) -> None:
    failed = outcome(store, 1, F.CODE)
    assert decide_retry([failed], resumption=Resumption(before=failed.start.started_at - 1)) is RetryDecision.STOP
    assert decide_retry([failed], resumption=Resumption(before=failed.start.started_at + 1)) is RetryDecision.GO_ON


def test_every_class_stops_at_once_or_is_counted_or_costs_nothing() -> None:
    at_once = {failure for failure in F if POLICIES[failure].stops_at_once}
    uncounted = {failure for failure in F if POLICIES[failure].attempts is None}
    assert at_once >= {F.DIVERGED, F.DATA, F.CODE, F.CANCELLED}
    assert uncounted >= {F.INTERRUPTED}
    assert all((POLICIES[failure].attempts or 0) > 1 for failure in set(F) - at_once - uncounted)


def test_preemptions_and_time_limits_take_nothing_from_the_tries_after_a_real_failure(store: Store) -> None:
    for failure, retries in ((F.KILLED, 3), (F.OUT_OF_MEMORY, 1), (F.UNKNOWN, 2)):
        between = [F.PREEMPTED, F.WALL_CLOCK, F.INTERRUPTED, failure]
        assert judged(store, *between * retries) is RetryDecision.GO_ON
        assert judged(store, *between * (retries + 1)) is RetryDecision.STOP


def test_restarts_that_the_plan_counts_on_are_allowed_on_top(store: Store) -> None:
    limits = [outcome(store, number, F.WALL_CLOCK) for number in range(12)]
    assert decide_retry(limits[:2]) is RetryDecision.GO_ON
    assert decide_retry(limits[:3]) is RetryDecision.STOP
    assert decide_retry(limits[:11], restarts=9) is RetryDecision.GO_ON
    assert decide_retry(limits, restarts=9) is RetryDecision.STOP
    assert decide_retry([outcome(store, number, F.KILLED) for number in range(4)], restarts=9) is RetryDecision.STOP


def test_an_attempt_that_a_person_cancelled_goes_on_after_a_resume(store: Store) -> None:
    cancelled = outcome(store, 3, F.CANCELLED)
    assert decide_retry([cancelled]) is RetryDecision.STOP
    seen = Resumption(attempts=frozenset({cancelled.start.attempt}))
    assert decide_retry([cancelled], resumption=seen) is RetryDecision.GO_ON


def test_memory_is_raised_once_after_it_ran_out_where_that_is_allowed(store: Store) -> None:
    plain = toy_job("k", resources=Resources(memory_gib=32))
    allowed = toy_job("k", resources=Resources(memory_gib=32, retry_memory_gib=64))
    lower = toy_job("k", resources=Resources(memory_gib=32, retry_memory_gib=16))
    ran_out = [outcome(store, 0, F.OUT_OF_MEMORY), outcome(store, 1, F.PREEMPTED)]
    assert [choose_memory_gib(job, ran_out) for job in (plain, allowed, lower)] == [32, 64, 32]
    assert choose_memory_gib(allowed, []) == choose_memory_gib(allowed, [outcome(store, 0, F.KILLED)]) == 32
    assert choose_memory_gib(allowed, [*ran_out, outcome(store, 2, F.OUT_OF_MEMORY)]) == 64
    assert decide_retry([*ran_out, outcome(store, 2, F.OUT_OF_MEMORY)]) is RetryDecision.STOP


def test_no_mixture_of_failures_without_progress_goes_on_for_ever(store: Store) -> None:
    budgets = {failure: policy.attempts for failure, policy in POLICIES.items() if policy.attempts}
    counted, most = sorted(budgets), sum(budgets.values())
    outcomes = [outcome(store, number, failure) for number, failure in zip(range(8 * most), itertools.cycle(counted))]
    assert any(decide_retry(outcomes[:length]) is RetryDecision.STOP for length in range(1, most + 1))
