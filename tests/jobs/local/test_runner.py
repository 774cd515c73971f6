"""Whole small sweeps on this machine: order, slots, retries, repair."""

import json
import logging
from typing import Any

import pytest

from jobs.errors import InfeasibleJobError, RunnerBusyError
from jobs.job import Resources
from jobs.local.runner import RunnerEvent, StopRequest
from jobs.local.runner_lock import hold_runner_lock
from jobs.local.slots import Slots
from jobs.reconcile.decide import Submit
from jobs.reconcile.order import extend_priorities
from jobs.reconcile.state import JobState
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from tests.jobs import toy


def failures(store: Store, key: str, jobs: list[Any]) -> list[FailureClass | None]:
    return [outcome.failure for outcome in toy.picture(store, jobs).runs[key].outcomes]


def begun(store: Store, jobs: list[Any]) -> list[str]:
    """Keys in the order in which their stages began."""
    moments = [
        (line["time"], job.key) for job in jobs for line in toy.executions(store, job) if line["event"] == "begin"
    ]
    return [key for _, key in sorted(moments)]


def test_a_graph_runs_to_its_end_and_once(store: Store) -> None:
    jobs = toy.small_graph()
    heard: list[RunnerEvent] = []
    assert toy.submit(store, jobs, heard=heard).problem == ""
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
    assert all(toy.count(store, job, "begin") == toy.count(store, job, "completed") == 1 for job in jobs)
    assert sorted(progress.job.key for progress in heard if progress.event is EventKind.ENDED) == sorted(
        job.key for job in jobs
    )
    toy.submit(store, jobs)
    assert all(toy.count(store, job, "begin") == 1 for job in jobs)


def test_the_log_says_what_is_queued_how_attempts_end_and_why_the_runner_ends(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs.local.runner")
    toy.submit(store, [toy.toy_job("only")])
    said = [record.getMessage() for record in caplog.records if record.name == "jobs.local.runner"]
    assert said[0] == "the jobs are: 1 ready"
    assert said[1] == "queues 1 jobs: only"
    # a quick attempt may have ended before the runner has seen it run
    assert [line.split(": attempt")[0] for line in said[2:-1]][-2:] in (["only running", "only done"], ["only done"])
    assert said[-1] == "ends: nothing is left to run"


def test_with_one_slot_whole_chains_finish_before_the_next_begins(store: Store) -> None:
    jobs = toy.small_graph()
    toy.submit(store, jobs, cpus=1)
    order = begun(store, jobs)
    assert order.index("a-ev1") < order.index("a-ft2") < order.index("trunk2")


def test_cells_of_higher_priority_run_first(store: Store) -> None:
    jobs = toy.small_graph()
    toy.submit(store, jobs, cpus=1, priorities=extend_priorities(jobs, {"b": 1}))
    order = begun(store, jobs)
    assert order[:2] == ["trunk1", "trunk2"]
    assert {key[0] for key in order[2:7]} == {"b"}


def test_cores_and_gpus_are_given_out_once_and_told_to_the_stage(store: Store) -> None:
    jobs = [
        toy.toy_job(f"gpu{number}", step_seconds=0.03, resources=Resources(cpus=1, gpus_per_node=1))
        for number in range(3)
    ]
    jobs.append(toy.toy_job("wide", step_seconds=0.03, resources=Resources(cpus=3)))
    toy.submit(store, jobs, slots=Slots(3, ("4", "5")))
    lines = [line for job in jobs for line in toy.executions(store, job)]
    given = {line["gpus"] for line in lines if line["event"] == "begin"}
    assert given == {"4", "5", ""}
    assert [line["threads"] for line in toy.executions(store, jobs[3]) if line["event"] == "begin"] == ["3"]
    assert most_at_once(store, jobs[:3]) <= 2
    wide = toy.executions(store, jobs[3])
    assert not [line for line in lines if line not in wide and wide[0]["time"] < line["time"] < wide[-1]["time"]]


def most_at_once(store: Store, jobs: list[Any]) -> int:
    edges = []
    for job in jobs:
        lines = toy.executions(store, job)
        edges += [(lines[0]["time"], 1), (lines[-1]["time"], -1)]
    level = most = 0
    for _, change in sorted(edges):
        level += change
        most = max(most, level)
    return most


def test_a_job_that_can_never_fit_is_refused_before_anything_starts(store: Store) -> None:
    jobs = [toy.toy_job("small"), toy.toy_job("large", resources=Resources(nodes=2, cpus=4, gpus_per_node=8))]
    with pytest.raises(
        InfeasibleJobError, match=r"1 job can never run here; the first, pretrain large: it needs 8 CPU cores"
    ):
        toy.submit(store, jobs)
    assert not store.runs.exists()
    with pytest.raises(InfeasibleJobError, match="16 GPUs and this runner has 0"):
        toy.submit(store, jobs, cpus=8)
    toy.submit(store, jobs, wanted={"small"})
    assert toy.states(store, jobs)["small"] is JobState.DONE


def test_a_second_runner_is_refused_and_names_the_first(store: Store) -> None:
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    with (
        hold_runner_lock(store, sweep="other", writer="w"),
        pytest.raises(RunnerBusyError, match="sweep other, since"),
    ):
        toy.submit(store, jobs)
    assert not store.runs.exists()


@pytest.mark.parametrize(
    ("fail", "attempts", "last"),
    [
        ("diverged", 1, FailureClass.DIVERGED),
        ("data", 1, FailureClass.DATA),
        ("segv", 1, FailureClass.CODE),
        ("kill", 4, FailureClass.KILLED),
        ("out_of_memory", 2, FailureClass.OUT_OF_MEMORY),
        ("raise", 2, FailureClass.UNKNOWN),
    ],
)
def test_a_failing_job_gets_its_classes_number_of_attempts_and_blocks_its_children(
    store: Store, fail: str, attempts: int, last: FailureClass
) -> None:
    jobs = [
        toy.toy_job("sick", fail=fail, fail_at=1),
        toy.toy_job("child", "sick"),
        toy.toy_job("grandchild", "child"),
        toy.toy_job("healthy"),
    ]
    toy.submit(store, jobs)
    seen = toy.picture(store, jobs)
    assert len(seen.runs["sick"].outcomes) == attempts
    assert failures(store, "sick", jobs)[-1] is last
    assert seen.statuses["sick"].state is JobState.FAILED
    assert seen.statuses["grandchild"].cause == "sick"
    assert seen.statuses["healthy"].state is JobState.DONE
    toy.submit(store, jobs)
    assert len(toy.picture(store, jobs).runs["sick"].outcomes) == attempts  # submitting again spends nothing


def test_a_job_killed_twice_goes_on_from_its_checkpoint(store: Store) -> None:
    job = toy.toy_job("unlucky", fail="kill", fail_at=2, fail_times=2)
    toy.submit(store, [job])
    assert toy.states(store, [job]) == {"unlucky": JobState.DONE}
    assert [line["step"] for line in toy.executions(store, job) if line["event"] == "begin"] == [0, 2, 2]
    assert toy.count(store, job, "step") == 3


def test_progress_keeps_a_job_alive_through_many_kills(store: Store) -> None:
    job = toy.toy_job("spot", steps=8, fail="exit75", fail_at=0)
    toy.submit(store, [job])
    assert len(failures(store, "spot", [job])) == 20  # never gets on: the budget ends
    assert toy.states(store, [job]) == {"spot": JobState.FAILED}


def test_a_damaged_parent_is_run_again_once_and_then_its_child(store: Store) -> None:
    parent, child = toy.toy_job("parent"), toy.toy_job("child", "parent")
    toy.submit(store, [parent])
    expected = toy.results(store, [parent])
    model = toy.run_of(store, parent).checkpoints / "step-00000003" / "model.json"
    model.write_text("x" * model.stat().st_size)  # same size: only a reader sees it
    toy.submit(store, [parent, child])
    assert toy.states(store, [parent, child]) == {"parent": JobState.DONE, "child": JobState.DONE}
    assert failures(store, "child", [parent, child]) == []
    assert toy.run_of(store, parent).damaged_result.exists()
    assert toy.results(store, [parent]) == expected
    assert toy.count(store, child, "begin") == 1  # the first attempt ended before it began


def test_input_that_stays_damaged_stops_after_one_repair(store: Store) -> None:
    parent = toy.toy_job("parent")
    child = toy.toy_job("child", "parent", fail="damaged_input")
    toy.submit(store, [parent, child])
    assert toy.states(store, [parent, child]) == {"parent": JobState.DONE, "child": JobState.FAILED}
    assert failures(store, "child", [parent, child]) == [FailureClass.DAMAGED_INPUT] * 2
    assert toy.count(store, parent, "begin") == 2


@pytest.mark.parametrize("damage", ["delete", "truncate", "shrink a file"])
def test_a_lost_result_is_written_again_from_the_checkpoint(store: Store, damage: str) -> None:
    jobs = [toy.toy_job("a"), toy.toy_job("b", "a")]
    toy.submit(store, jobs)
    expected = toy.results(store, jobs)
    run = toy.run_of(store, jobs[0])
    if damage == "delete":
        run.result.unlink()
    elif damage == "truncate":
        run.result.write_bytes(run.result.read_bytes()[:-20])
    else:
        model = run.checkpoints / "step-00000003" / "model.json"
        model.write_text(model.read_text()[:10])
    assert toy.states(store, jobs) == {"a": JobState.INTERRUPTED, "b": JobState.DONE}
    toy.submit(store, jobs)
    assert toy.results(store, jobs) == expected
    assert toy.count(store, jobs[0], "step") == (4 if damage == "shrink a file" else 3)
    assert toy.count(store, jobs[1], "begin") == 1


def test_a_lost_exit_record_costs_nothing(store: Store) -> None:
    job = toy.toy_job("a", fail="diverged", fail_at=1)
    toy.submit(store, [job])
    toy.run_of(store, job).locate_attempt("local-0001").exit.unlink()
    assert failures(store, "a", [job]) == [FailureClass.DIVERGED]  # error.json still tells
    assert toy.states(store, [job]) == {"a": JobState.FAILED}


def test_a_cancelled_job_stays_out_until_it_is_resumed(store: Store) -> None:
    jobs = [toy.toy_job("a"), toy.toy_job("b", "a")]
    toy.plan(store, jobs)
    ledger = Ledger(store.locate_sweep(toy.SWEEP).ledger)
    ledger.append([Event(event=EventKind.CANCELLED, key="a")])
    toy.submit(store, jobs)
    assert toy.states(store, jobs) == {"a": JobState.CANCELLED, "b": JobState.BLOCKED}
    ledger.append([Event(event=EventKind.RESUMED, key="a")])
    toy.submit(store, jobs)
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}


def test_a_resumed_job_has_a_new_budget_and_its_checkpoint(store: Store) -> None:
    jobs = [toy.toy_job("a", fail="diverged", fail_at=2, fail_times=1), toy.toy_job("b", "a")]
    toy.submit(store, jobs)
    assert toy.states(store, jobs) == {"a": JobState.FAILED, "b": JobState.BLOCKED}
    Ledger(store.locate_sweep(toy.SWEEP).ledger).append([Event(event=EventKind.RESUMED, key="a")])
    assert toy.states(store, jobs) == {"a": JobState.INTERRUPTED, "b": JobState.WAITING}
    toy.submit(store, jobs)
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
    assert [line["step"] for line in toy.executions(store, jobs[0]) if line["event"] == "begin"] == [0, 2]


def test_supervisors_that_cannot_begin_end_the_run_with_their_reason(store: Store) -> None:
    jobs = [toy.toy_job(key) for key in "abcd"]
    toy.plan(store, jobs)
    end = toy.local_run(store, jobs, cpus=1, program=("/no/such/program",)).run(StopRequest())
    assert "cannot run /no/such/program" in end.problem
    assert sum(toy.run_of(store, job).root.exists() for job in jobs) == 1


def test_a_preview_changes_nothing(store: Store) -> None:
    jobs = toy.small_graph()
    toy.plan(store, jobs)
    before = sorted(store.root.rglob("*"))
    assert toy.local_run(store, jobs).preview() == [Submit("trunk1")]
    assert sorted(store.root.rglob("*")) == before


def test_the_ledger_tells_what_was_meant_and_what_came_of_it(store: Store) -> None:
    job = toy.toy_job("a", step_seconds=0.3, fail="diverged", fail_at=2)
    toy.submit(store, [job])
    lines = [
        json.loads(line)
        for path in store.locate_sweep(toy.SWEEP).ledger.iterdir()
        for line in path.read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == ["intent", "started", "ended"]
    assert (lines[-1]["attempt"], lines[-1]["failure"]) == ("local-0001", "diverged")
