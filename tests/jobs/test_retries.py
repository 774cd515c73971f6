import pytest

from jobs.outcomes import Outcome
from jobs.records import AttemptExit, AttemptStart
from jobs.records import FailureClass as F
from jobs.retries import Verdict, verdict
from jobs.store import AttemptPaths, Store


def outcome(store: Store, number: int, failure: F | None, *, advanced: bool = False, digest: str = "") -> Outcome:
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
    )
    end = AttemptExit(
        attempt=name, key="k", ended_at=10.0 * number + 15, returncode=1, failure=failure, traceback_digest=digest
    )
    return Outcome(paths=AttemptPaths(store.root / name), start=start, end=end, advanced=advanced)


def judged(store: Store, *failures: F | None, advanced: bool = False, digests: tuple[str, ...] = ()) -> Verdict:
    marks = digests or ("",) * len(failures)
    pairs = enumerate(zip(failures, marks, strict=True))
    return verdict(
        [outcome(store, number, failure, advanced=advanced, digest=mark) for number, (failure, mark) in pairs]
    )


@pytest.mark.parametrize("failure", [F.DIVERGED, F.DATA, F.CODE])
def test_what_would_end_the_same_way_stops_at_once(store: Store, failure: F) -> None:
    assert judged(store, failure) is Verdict.STOP


@pytest.mark.parametrize(
    ("failure", "retries"),
    [(F.KILLED, 3), (F.NODE_FAULT, 3), (F.OUT_OF_MEMORY, 1), (F.DAMAGED_INPUT, 1), (F.UNKNOWN, 2)],
)
def test_each_class_has_its_budget_of_retries(store: Store, failure: F, retries: int) -> None:
    assert judged(store, *[failure] * retries) is Verdict.GO_ON
    assert judged(store, *[failure] * (retries + 1)) is Verdict.STOP


def test_progress_renews_the_budget_of_faults_but_not_of_memory(store: Store) -> None:
    assert judged(store, *[F.KILLED] * 30, advanced=True) is Verdict.GO_ON
    assert judged(store, *[F.OUT_OF_MEMORY] * 2, advanced=True) is Verdict.STOP


@pytest.mark.parametrize("failure", [F.INTERRUPTED, F.STORAGE])
def test_a_stop_on_request_and_a_full_disk_cost_no_budget(store: Store, failure: F) -> None:
    assert judged(store, *[failure] * 50) is Verdict.GO_ON


def test_budgets_are_apart(store: Store) -> None:
    assert judged(store, F.KILLED, F.OUT_OF_MEMORY, F.KILLED, F.UNKNOWN, F.KILLED) is Verdict.GO_ON


def test_the_same_traceback_twice_is_not_tried_a_third_time(store: Store) -> None:
    assert judged(store, F.UNKNOWN, digests=("a",)) is Verdict.GO_ON
    assert judged(store, F.UNKNOWN, F.UNKNOWN, digests=("a", "b")) is Verdict.GO_ON
    assert judged(store, F.UNKNOWN, F.KILLED, F.UNKNOWN, digests=("a", "", "a")) is Verdict.STOP


def test_a_broken_link_may_show_the_same_traceback_on_every_node(store: Store) -> None:
    assert judged(store, F.NODE_FAULT, F.NODE_FAULT, digests=("a", "a")) is Verdict.GO_ON


def test_a_job_without_attempts_is_new_and_one_whose_result_was_lost_goes_on(store: Store) -> None:
    assert verdict([]) is Verdict.NEW
    assert judged(store, None) is Verdict.GO_ON


def test_attempts_before_a_resume_do_not_count(store: Store) -> None:
    failed = outcome(store, 1, F.CODE)
    assert verdict([failed], counted_from=failed.start.started_at - 1) is Verdict.STOP
    assert verdict([failed], counted_from=failed.start.started_at + 1) is Verdict.GO_ON
