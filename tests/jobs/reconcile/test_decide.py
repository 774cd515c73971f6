from collections.abc import Mapping
from typing import Any

from jobs.job import add_ancestors
from jobs.observation import ClusterState, Observation
from jobs.reconcile.decide import Action, AmountRoom, Invalidate, QueueCapacity, Restore, Submit, Withdraw, decide
from jobs.reconcile.state import JobState, JobStatus
from tests.jobs.toy import small_graph, toy_job

CHAIN = [toy_job("a"), toy_job("b", "a"), toy_job("c", "b")]


def decided(states: Mapping[str, JobState], **options: Any) -> list[Action]:
    settings: dict[str, Any] = {"wanted": {"a", "b", "c"}, "observed": {}, "damaged": {}, "chained": False, **options}
    return decide(CHAIN, {key: JobStatus(state) for key, state in states.items()}, **settings)


def seen(state: ClusterState) -> Observation:
    return Observation(state=state)


def test_only_what_can_start_is_submitted() -> None:
    assert decided({"a": JobState.READY, "b": JobState.WAITING, "c": JobState.WAITING}) == [Submit("a")]
    assert decided({"a": JobState.DONE, "b": JobState.INTERRUPTED, "c": JobState.WAITING}) == [Submit("b")]


def test_a_chained_cluster_gets_children_behind_their_parents() -> None:
    waiting = {"a": JobState.READY, "b": JobState.WAITING, "c": JobState.WAITING}
    assert decided(waiting, chained=True) == [Submit("a"), Submit("b", ("a",)), Submit("c", ("b",))]


def test_a_finished_parent_is_never_a_dependency() -> None:
    states = {"a": JobState.DONE, "b": JobState.RUNNING, "c": JobState.WAITING}
    assert decided(states, chained=True, observed={"b": seen(ClusterState.RUNNING)}) == [Submit("c", ("b",))]


def test_no_child_goes_out_behind_a_parent_that_does_not() -> None:
    states = {"a": JobState.UNKNOWN, "b": JobState.WAITING, "c": JobState.WAITING}
    assert decided(states, chained=True) == []
    assert decided({**states, "a": JobState.READY}, chained=True, wanted={"b", "c"}) == []


def test_what_the_cluster_knows_is_not_sent_again() -> None:
    states = {"a": JobState.QUEUED, "b": JobState.RUNNING, "c": JobState.READY}
    observed = {"a": seen(ClusterState.QUEUED), "b": seen(ClusterState.RUNNING)}
    assert decided(states, observed=observed) == [Submit("c")]


def test_the_room_in_the_queue_is_kept() -> None:
    assert decided(dict.fromkeys("abc", JobState.READY), capacity=QueueCapacity({"all": 2}, lambda _job: ["all"])) == [
        Submit("a"),
        Submit("b"),
    ]
    assert decided(dict.fromkeys("abc", JobState.READY), capacity=QueueCapacity({"all": 0}, lambda _job: ["all"])) == []


def test_what_is_set_aside_comes_back_before_its_reader_goes_out() -> None:
    states = {"a": JobState.DONE, "b": JobState.READY, "c": JobState.WAITING}
    assert decided(states, set_aside={"b"}) == [Restore("b")]
    assert decided(states, set_aside={"b"}, chained=True) == [Restore("b")], "nor does what would wait behind it"
    assert decided(states, set_aside={"b"}, wanted={"c"}) == [], "what is not to be sent is left where it is"
    full = QueueCapacity(left={"own": 0}, limit_names=lambda _job: ["own"])
    assert decided(states, set_aside={"b"}, capacity=full) == [], "nor is it touched for a job that has no room"
    poor = QueueCapacity(amounts=AmountRoom({"money": 1.0}, {"b": {"money": 2.0}}))
    assert decided(states, set_aside={"b"}, capacity=poor) == []


def test_blocked_cancelled_and_finished_jobs_leave_the_queue() -> None:
    queued = dict.fromkeys("abc", seen(ClusterState.QUEUED))
    actions = decided({"a": JobState.CANCELLED, "b": JobState.BLOCKED, "c": JobState.DONE}, observed=queued)
    assert actions == [Withdraw("a", "cancelled"), Withdraw("b", "blocked"), Withdraw("c", "done already")]


def test_a_job_stuck_behind_a_failed_attempt_is_withdrawn_to_be_sent_again() -> None:
    states = {"a": JobState.INTERRUPTED, "b": JobState.WAITING, "c": JobState.WAITING}
    actions = decided(states, chained=True, observed={"b": seen(ClusterState.STUCK), "c": seen(ClusterState.QUEUED)})
    below = [action.key for action in actions if isinstance(action, Withdraw)]
    assert below == ["b", "c"]  # what is queued behind it would wait for ever too
    assert actions[2:] == [Submit("a")]


def test_a_damaged_parent_is_moved_aside_before_its_child_goes_on() -> None:
    states = {"a": JobState.DONE, "b": JobState.INTERRUPTED, "c": JobState.WAITING}
    assert decided(states, damaged={"a": "b"}) == [Invalidate("a", "b")]


def test_a_job_brings_its_ancestors() -> None:
    assert add_ancestors(small_graph(), {"b-ft1"}) == {"b-ft1", "b-pre", "trunk2", "trunk1"}


def test_a_job_behind_one_that_has_just_ended_well_stays_in_the_queue() -> None:
    """squeue was asked before the disk: the parent was queued then, and has its result now."""
    states = {"a": JobState.DONE, "b": JobState.QUEUED, "c": JobState.QUEUED}
    queued = dict.fromkeys("abc", seen(ClusterState.QUEUED))
    assert decided(states, chained=True, observed=queued) == [Withdraw("a", "done already")]


def test_no_child_goes_out_behind_a_parent_that_lives_and_that_the_cluster_cannot_show() -> None:
    states = {"a": JobState.RUNNING, "b": JobState.WAITING, "c": JobState.WAITING}
    assert decided(states, chained=True, observed={"a": seen(ClusterState.UNKNOWN)}) == []
    assert decided(states, chained=True, observed={"a": seen(ClusterState.RUNNING)})[0] == Submit("b", ("a",))


def test_what_a_budget_has_no_room_for_is_held_back_and_what_is_smaller_goes() -> None:
    room = AmountRoom({"hours": 3.0}, {"a": {"hours": 2.0}, "b": {"hours": 2.0}, "c": {"hours": 1.0}})
    capacity = QueueCapacity(amounts=room)
    assert decided(dict.fromkeys("abc", JobState.READY), capacity=capacity) == [Submit("a"), Submit("c")]
    assert room.held == {"hours": ["b"]}


def test_no_child_goes_out_behind_a_parent_for_which_the_budget_has_no_room() -> None:
    room = AmountRoom({"hours": 1.0}, {"a": {"hours": 2.0}, "b": {"hours": 0.5}})
    waiting = {"a": JobState.READY, "b": JobState.WAITING, "c": JobState.WAITING}
    assert decided(waiting, chained=True, capacity=QueueCapacity(amounts=room)) == []


def test_a_full_queue_takes_nothing_from_a_budget() -> None:
    room = AmountRoom({"hours": 1.0}, {"a": {"hours": 1.0}})
    capacity = QueueCapacity({"all": 0}, lambda _job: ["all"], amounts=room)
    assert decided(dict.fromkeys("abc", JobState.READY), capacity=capacity) == []
    assert (room.left, room.held) == ({"hours": 1.0}, {})


def test_queued_jobs_leave_the_queue_when_the_budget_has_no_room_any_more() -> None:
    observed = {"a": seen(ClusterState.RUNNING), "b": seen(ClusterState.QUEUED), "c": seen(ClusterState.QUEUED)}
    states = {"a": JobState.RUNNING, "b": JobState.QUEUED, "c": JobState.QUEUED}
    room = AmountRoom({}, {}, withdrawn=["a", "b"])
    actions = decided(states, observed=observed, chained=True, capacity=QueueCapacity(amounts=room))
    assert [type(each) for each in actions] == [Withdraw, Withdraw]
    assert [each.key for each in actions] == ["b", "c"]  # the running one goes on
