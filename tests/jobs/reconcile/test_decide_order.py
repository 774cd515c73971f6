from jobs.job import Job
from jobs.reconcile.decide import sort_depth_first
from jobs.reconcile.state import JobState, JobStatus
from tests.jobs.toy import small_graph, toy_job


def order(jobs: list[Job], **states: JobState) -> list[str]:
    statuses = {job.key: JobStatus(states.get(job.key.replace("-", "_"), JobState.WAITING)) for job in jobs}
    return [job.key for job in sort_depth_first(jobs, statuses)]


def test_the_trunk_goes_ahead_and_then_chain_by_chain() -> None:
    assert order(small_graph()) == [
        *("trunk1", "trunk2"),
        *("a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"),
        *("b-pre", "b-ft1", "b-ev1", "b-ft2", "b-ev2"),
    ]


def test_a_chain_that_has_begun_ends_before_another_begins() -> None:
    states = {"trunk1": JobState.DONE, "trunk2": JobState.DONE, "b_pre": JobState.DONE, "b_ft1": JobState.DONE}
    assert order(small_graph(), **states) == ["b-ev1", "b-ft2", "b-ev2", "a-pre", "a-ft1", "a-ev1", "a-ft2", "a-ev2"]


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
