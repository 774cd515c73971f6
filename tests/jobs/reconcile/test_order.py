from collections.abc import Collection, Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.job import Job
from jobs.reconcile.order import NO_TRUNK, WHOLE_TRUNK, extend_priorities, sort_jobs
from tests.jobs.toy import small_graph, toy_job


def order(jobs: list[Job], done: Collection[str] = (), first: Mapping[str, int] | None = None, **how: Any) -> list[str]:
    return [job.key for job in sort_jobs(jobs, done, extend_priorities(jobs, first or {}), **how)]


def test_the_trunk_goes_ahead_and_then_chain_by_chain() -> None:
    assert order(small_graph()) == [
        *("trunk1", "trunk2"),
        *("a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"),
        *("b-pre", "b-ft1", "b-ev1", "b-ft2", "b-ev2"),
    ]


def test_a_chain_that_has_begun_ends_before_another_begins() -> None:
    done = ["trunk1", "trunk2", "b-pre", "b-ft1"]
    assert order(small_graph(), done) == ["b-ev1", "b-ft2", "b-ev2", "a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"]


def test_only_the_next_trunk_segments_go_ahead() -> None:
    trunks = [toy_job("t0", phase="trunk")]
    trunks += [toy_job(f"t{number}", f"t{number - 1}", phase="trunk") for number in range(1, 5)]
    jobs = [*trunks, toy_job("late", "t4"), toy_job("early", "t0"), toy_job("now")]
    assert order(jobs) == ["t0", "t1", "now", "early", "t2", "t3", "t4", "late"]


def test_parents_always_come_first() -> None:
    jobs = [toy_job("a"), toy_job("b"), toy_job("both", "a", "b"), toy_job("end", "both")]
    found = order(jobs)
    assert sorted(found) == ["a", "b", "both", "end"]
    assert found.index("both") > max(found.index("a"), found.index("b"))


def test_a_long_chain_is_no_deep_recursion() -> None:
    jobs = [toy_job("0")] + [toy_job(str(number), str(number - 1)) for number in range(1, 3_000)]
    assert order(jobs) == [job.key for job in jobs]


def test_where_one_job_runs_at_a_time_a_chain_ends_before_the_trunk_goes_on() -> None:
    jobs = small_graph()
    assert order(jobs, trunk_depth=NO_TRUNK)[:7] == ["trunk1", "a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2", "trunk2"]
    trunks = [toy_job("t0", phase="trunk")]
    trunks += [toy_job(f"t{number}", f"t{number - 1}", phase="trunk") for number in range(1, 5)]
    assert order([*trunks, toy_job("now")], trunk_depth=WHOLE_TRUNK) == ["t0", "t1", "t2", "t3", "t4", "now"]


def test_a_cell_of_higher_priority_goes_first_with_all_that_it_needs() -> None:
    assert order(small_graph(), first={"b": 1}) == [
        *("trunk1", "trunk2", "b-pre", "b-ft1", "b-ev1", "b-ft2", "b-ev2"),
        *("a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"),
    ]


def test_a_cell_below_zero_goes_last_and_what_it_shares_does_not() -> None:
    assert order(small_graph(), first={"a": -1}) == [
        *("trunk1", "trunk2", "b-pre", "b-ft1", "b-ev1", "b-ft2", "b-ev2"),
        *("a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"),
    ]
    assert order(small_graph(), first={"b": -1})[:7] == [
        *("trunk1", "a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"),
        "trunk2",  # which only the cell of low priority needs
    ]


def test_a_job_that_is_named_by_key_goes_first_with_its_ancestors() -> None:
    assert order(small_graph(), first={"b-ev2": 5})[:5] == ["trunk1", "trunk2", "b-pre", "b-ft2", "b-ev2"]


def test_a_job_that_several_cells_share_has_the_highest_priority_of_them() -> None:
    jobs = [toy_job("own", cells=["a"]), toy_job("shared", cells=["a", "b", "c"]), toy_job("last", cells=["c"])]
    assert extend_priorities(jobs, {"a": -3, "b": 7, "c": 2}) == {"own": -3, "shared": 7, "last": 2}
    assert order(jobs, first={"a": -3, "b": 7, "c": 2}) == ["shared", "last", "own"]


@given(st.data())
def test_whatever_the_priorities_parents_come_first_and_nothing_is_left_out(data: st.DataObject) -> None:
    jobs: list[Job] = []
    for number in range(data.draw(st.integers(1, 12))):
        parents = (
            data.draw(st.lists(st.sampled_from([job.key for job in jobs]), max_size=2, unique=True)) if jobs else []
        )
        phase = data.draw(st.sampled_from(["trunk", "pretrain"]))
        cells = data.draw(st.lists(st.sampled_from("abc"), max_size=2, unique=True))
        jobs.append(toy_job(str(number), *parents, phase=phase, cells=cells))
    priorities = extend_priorities(jobs, data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(-2, 2))))
    found = [job.key for job in sort_jobs(jobs, (), priorities)]
    assert sorted(found) == sorted(job.key for job in jobs)
    for job in jobs:
        assert all(found.index(parent) < found.index(job.key) for parent in job.parents)
    numbers = [priorities.get(key, 0) for key in found]
    assert numbers == sorted(numbers, reverse=True)
