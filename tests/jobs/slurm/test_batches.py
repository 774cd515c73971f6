from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from jobs.job import Job, Resources
from jobs.reconcile.decide import Submit, decide
from jobs.reconcile.order import sort_jobs
from jobs.reconcile.state import JobState, JobStatus
from jobs.slurm.batches import NAME, ArrayTask, BatchPlanner, SlurmBatch, build_batch_name, parse_sweep_name
from tests.jobs.toy import toy_job


def cells(number: int, *, epochs: int = 4, parents: Sequence[str] = ()) -> list[Job]:
    """Pre-trained models, each with its fine-tunes and their evaluations, on shared parents."""
    jobs: list[Job] = []
    for cell in range(number):
        jobs.append(toy_job(f"p{cell}", *parents, cells=[f"c{cell}"]))
        for epoch in range(epochs):
            time = Resources(time_minutes=60 + epoch)
            jobs.append(toy_job(f"f{cell}.{epoch}", f"p{cell}", phase="finetune", resources=time))
            jobs.append(toy_job(f"e{cell}.{epoch}", f"f{cell}.{epoch}", phase="evaluate"))
    return jobs


def formed(
    jobs: Sequence[Job],
    *,
    live: Mapping[str, ArrayTask] | None = None,
    done: Sequence[str] = (),
    array_limit: int = 1001,
    memory_gib: Mapping[str, float] | None = None,
) -> list[SlurmBatch]:
    """What a first submission of all jobs would send."""
    statuses = {job.key: JobStatus(JobState.DONE if job.key in done else JobState.WAITING) for job in jobs}
    for job in jobs:
        if job.key not in done and all(parent in done for parent in job.parents):
            statuses[job.key] = JobStatus(JobState.READY)
    order = sort_jobs(jobs, done)
    wanted = {job.key for job in jobs} - set(live or ())
    actions = decide(order, statuses, wanted=wanted, observed={}, damaged={}, chained=True)
    submits = [action for action in actions if isinstance(action, Submit)]
    former = BatchPlanner(
        sweep="toy",
        jobs={job.key: job for job in jobs},
        live=live or {},
        array_limit=array_limit,
        memory_gib=memory_gib or {},
    )
    return former.plan_batches(submits)


def test_a_stage_of_many_cells_is_one_array_for_each_kind_of_job() -> None:
    batches = formed(cells(30))
    assert Counter(batch.phase for batch in batches) == {"pretrain": 1, "finetune": 4, "evaluate": 4}
    assert all(len(batch.tasks) == 30 for batch in batches)


def test_arrays_are_aligned_with_their_parents() -> None:
    jobs = {job.key: job for job in cells(30)}
    batches = {batch.name: batch for batch in formed(list(jobs.values()))}
    for batch in batches.values():
        if batch.phase == "pretrain":
            assert not batch.corresponds_batch
            assert not batch.after_tasks
            continue
        above = batches[batch.corresponds_batch]
        assert all(jobs[key].parents == (above.tasks[index],) for index, key in batch.tasks.items())


def test_parents_are_sent_before_their_children() -> None:
    sent: set[str] = set()
    for batch in formed([toy_job("t", phase="trunk"), *cells(3, parents=["t"])]):
        assert {name for name, _ in batch.after_tasks} | {batch.corresponds_batch} - {""} <= sent
        sent.add(batch.name)


def test_a_shared_trunk_is_waited_for_by_one_array() -> None:
    batches = formed([toy_job("t", phase="trunk"), *cells(20, parents=["t"])])
    trunk, pretrain = batches[:2]
    assert pretrain.after_tasks == ((trunk.name, 0),)
    assert len(pretrain.tasks) == 20
    assert len(batches) == 10


def test_one_cell_is_a_chain_of_few_calls() -> None:
    """One array of four fine-tunes behind the one parent, and one of four evaluations aligned with it."""
    assert [len(batch.tasks) for batch in formed(cells(1))] == [1, 4, 4]


def test_seventeen_cells_are_resumed_in_nine_calls_with_holes_where_children_are_done() -> None:
    jobs = cells(17)
    done = ["p3", *(f"f3.{epoch}" for epoch in range(4)), *(f"e3.{epoch}" for epoch in (0, 2))]
    batches = formed(jobs, done=done)
    assert len(batches) == 9 + 1  # the two evaluations of cell 3 wait for nobody
    assert all(len(batch.tasks) == 16 for batch in batches if batch.corresponds_batch)


def test_children_of_live_tasks_are_aligned_with_the_array_that_is_there() -> None:
    jobs = cells(3, epochs=1)
    live = {f"p{cell}": ArrayTask("700", 10 + cell, "700") for cell in range(3)}
    statuses = {job.key: JobStatus(JobState.QUEUED if job.key in live else JobState.WAITING) for job in jobs}
    submits = [Submit(f"f{cell}.0", (f"p{cell}",)) for cell in (0, 2)]
    assert statuses
    former = BatchPlanner(sweep="toy", jobs={job.key: job for job in jobs}, live=live, array_limit=1001)
    [batch] = former.plan_batches(submits)
    assert batch.corresponds_id == "700"
    assert batch.tasks == {10: "f0.0", 12: "f2.0"}


def test_a_live_parent_of_one_child_is_named_by_its_task() -> None:
    jobs = cells(1, epochs=2)
    former = BatchPlanner(
        sweep="toy", jobs={job.key: job for job in jobs}, live={"p0": ArrayTask("7", 4, "7")}, array_limit=9
    )
    [batch] = former.plan_batches([Submit("f0.0", ("p0",)), Submit("f0.1", ("p0",))])
    assert batch.after_ids == ("7_4",)
    assert not batch.corresponds_id


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 1001])
def test_arrays_keep_to_the_limit_of_the_cluster(limit: int) -> None:
    jobs = [toy_job("t", phase="trunk"), *cells(25, parents=["t"])]
    batches = formed(jobs, array_limit=limit)
    assert sorted(key for batch in batches for key in batch.tasks.values()) == sorted(job.key for job in jobs)
    assert all(len(batch.tasks) <= limit and max(batch.tasks) < limit for batch in batches)


def test_an_array_gets_the_longest_time_of_its_jobs() -> None:
    slow = [toy_job(str(number), resources=Resources(time_minutes=number)) for number in (5, 90, 7)]
    [batch] = formed(slow)
    assert batch.resources.time_minutes == 90


def test_different_requests_are_different_arrays() -> None:
    plain = Resources()
    kinds = [
        plain,
        replace(plain, cpus=2),
        replace(plain, gpus_per_node=1),
        replace(plain, options={"qos": "low"}),
        replace(plain, setup=("module load cuda",)),
        replace(plain, launcher=("nice",)),
    ]
    jobs = [toy_job(str(number), resources=kind) for number, kind in enumerate(kinds)]
    assert len(formed(jobs)) == len(kinds)


def test_more_memory_after_a_failure_is_an_array_of_its_own() -> None:
    big, small = formed([toy_job("a"), toy_job("b")], memory_gib={"a": 64.0})
    assert (big.tasks, big.resources.memory_gib) == ({0: "a"}, 64.0)
    assert small.resources.memory_gib == Resources().memory_gib


def test_a_child_of_two_unfinished_parents_waits_for_both() -> None:
    jobs = [toy_job("a"), toy_job("b"), toy_job("both", "a", "b")]
    above, below = formed(jobs)
    assert below.after_tasks == ((above.name, 0), (above.name, 1))


def test_names_are_unique_and_tell_the_sweep() -> None:
    names = {build_batch_name("my-sweep.v2", "finetune") for _ in range(100)}
    assert len(names) == 100
    assert all(NAME.fullmatch(name) and parse_sweep_name(name) == "my-sweep.v2" for name in names)
    assert parse_sweep_name("somebody-elses-job") == ""
