"""Time left: on the ground of finished jobs, on the slots that there are, and beside a run that was recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Estimate, Job, Resources
from jobs.store.records import AttemptExit, AttemptStart
from sweep.report.time_left import (
    Capacity,
    FinishedTime,
    Progress,
    TimeLeft,
    estimate_time_left,
    measure_running_capacity,
    read_finished_time,
    read_progress,
)
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.sweep.report.test_status import NOW, finish, planned

ONE = Capacity(cores=1, gpus=1, basis="1 core")
TWO = Capacity(cores=2, gpus=2, basis="2 cores")


def job(key: str, *parents: str, phase: str = "finetune", work: float = 100.0, **changes: Any) -> Job:
    """On one core; `work`: the plan's seconds, a fifth of which is start-up."""
    return replace(
        toy.toy_job(key, *parents, phase=phase),
        resources=Resources(cpus=1),
        estimate=Estimate(cpu_hours=1.25 * work / 3_600, startup_hours=0.25 * work / 3_600),
        **changes,
    )


def progress(jobs: list[Job], finished: dict[str, tuple[float, float]], **changes: Any) -> Progress:
    return Progress(
        jobs=jobs,
        models=changes.pop("models", {each.key: "m" for each in jobs}),
        finished={key: FinishedTime(*took) for key, took in finished.items()},
        running=changes.pop("running", {}),
        done=frozenset(finished),
        **changes,
    )


def seconds(found: Progress, capacity: Capacity = ONE) -> float | None:
    return estimate_time_left(found, capacity).seconds


def test_a_job_takes_what_jobs_of_its_kind_took_beside_their_steps_and_in_proportion_to_its_work() -> None:
    jobs = [job("a", work=100), job("b", work=100), job("c", work=300)]
    # 10 s and 14 s beside the steps; 2 s for each second that was planned
    assert seconds(progress(jobs, {"a": (210, 200), "b": (214, 200)})) == pytest.approx(12 + 600)


def test_jobs_of_which_the_start_up_alone_is_estimated_are_of_one_size() -> None:
    only_startup = Estimate(cpu_hours=0.01, startup_hours=0.01)
    jobs = [replace(job(name, phase="evaluate"), estimate=only_startup) for name in "abc"]
    assert seconds(progress(jobs, {"a": (12, 2)})) == pytest.approx(24)


def test_each_kind_of_job_needs_a_finished_one_of_its_own() -> None:
    jobs = [job("a"), job("b"), job("e", "b", phase="evaluate")]
    other = replace(jobs[1], config={**jobs[1].config, "precision": "fp32"})
    assert estimate_time_left(progress(jobs, {"a": (110, 100)}), ONE) == TimeLeft(
        None, "no evaluation of m has finished"
    )
    assert estimate_time_left(progress([jobs[0], other], {"a": (110, 100)}), ONE).seconds is None
    by_model = {"a": "79m", "b": "1.4b"}
    many = estimate_time_left(progress([job(name) for name in "abcd"], {}, models={name: name for name in "abcd"}), ONE)
    assert many.basis == "no fine-tune of a and no fine-tune of b and none of 2 other kinds has finished"
    told = estimate_time_left(progress(jobs[:2], {"a": (110, 100)}, models=by_model), ONE)
    assert told == TimeLeft(None, "no fine-tune of 1.4b has finished")


def test_a_chain_takes_its_length_and_wide_work_its_sum_over_the_slots() -> None:
    chain = [job("a"), job("b"), job("c", "b"), job("d", "c")]
    assert seconds(progress(chain, {"a": (100, 100)}), TWO) == pytest.approx(300)
    wide = [job("a"), *(job(f"w{number}") for number in range(5))]
    assert seconds(progress(wide, {"a": (100, 100)}), TWO) == pytest.approx(300)  # five on two: three rounds
    assert seconds(progress(wide, {"a": (100, 100)}), ONE) == pytest.approx(500)


def test_what_runs_holds_its_slot_for_the_rest_of_its_time() -> None:
    jobs = [job("a"), job("b"), job("c")]
    found = progress(jobs, {"a": (100, 100)}, running={"b": 70.0})
    assert seconds(found) == pytest.approx(30 + 100)
    assert seconds(found, TWO) == pytest.approx(100)
    late = progress(jobs, {"a": (100, 100)}, running={"b": 500.0})  # longer than expected: a little is left
    assert seconds(late) == pytest.approx(5 + 100)
    told = progress(jobs, {"a": (100, 100)}, running={"b": 70.0}, known={"b": 44.0})  # its own metrics
    assert seconds(told) == pytest.approx(44 + 100)


def test_steps_that_an_earlier_attempt_kept_are_not_done_again() -> None:
    jobs = [job("a"), job("b")]
    assert seconds(progress(jobs, {"a": (110, 100)}, done_before={"b": 0.75})) == pytest.approx(10 + 25)


def test_what_will_not_run_takes_no_time() -> None:
    jobs = [job("a"), job("b"), job("c", "b")]
    stopped = progress(jobs, {"a": (100, 100)}, stopped=frozenset({"b", "c"}))
    assert estimate_time_left(stopped, ONE) == TimeLeft(0.0, "nothing is left to run")


def test_a_cluster_runs_as_much_at_once_as_it_does_now() -> None:
    wide = Resources(nodes=2, gpus_per_node=4, gpu_type="a100")
    jobs = [replace(job(f"g{number}"), resources=wide) for number in range(3)] + [job("c")]
    capacity = measure_running_capacity(jobs, ["g0", "g2"])
    assert capacity is not None
    assert (capacity.gpus, capacity.cores, capacity.basis) == (16, 1, "as many at once as now, 2 jobs")
    assert measure_running_capacity(jobs, []) is None
    jobs = [job("a"), job("b")]
    waiting = estimate_time_left(progress(jobs, {"a": (1, 1)}), None)
    assert waiting == TimeLeft(None, "nothing runs now, so nobody knows how many jobs would run at once")


def test_a_finished_job_took_all_its_attempts_on_the_type_of_device_that_is_planned(tmp_path: Path) -> None:
    one = job("a")
    store = planned(tmp_path, [one])
    finish(store, one, seconds=120.0)
    run = toy.run_of(store, one)
    for number, (began, ended) in enumerate(((NOW - 900, NOW - 800), (NOW - 200, None))):
        paths = run.locate_attempt(f"a{number}")
        AttemptStart(
            attempt=f"a{number}", key="a", stage="finetune", backend="local", host="h", pid=1, pid_started=0,
            boot_id="", started_at=began,
        ).write(paths.start)  # fmt: skip
        if ended is not None:
            AttemptExit(attempt=f"a{number}", key="a", ended_at=ended, returncode=1, failure=None).write(paths.exit)
    snapshot = open_sweep(store.root, toy.SWEEP).load_snapshot()
    assert read_progress(snapshot, {}, NOW).finished == {"a": FinishedTime(wall=300, steps=120, ended_at=NOW)}
    on_gpus = replace(one, resources=Resources(gpus_per_node=1, gpu_type="a100"))
    assert read_finished_time(on_gpus, snapshot.runs["a"]) is None


# Two real runs, each on one slot of a machine of two cores, with the moments at which their attempts began and ended:
# a quarter of `manifests/demo.yaml` while a core was free, and all of it while other programs came and went, so that a
# second of work took 4.7 s at first and 0.5 s later. `python -m tests.sweep.report.record_run` wrote them down.

STEADY, BUSY, TWO_CORES = (
    Path(__file__).with_name(f"recorded_{name}.json") for name in ("run", "busy_run", "two_cores_run")
)


def load_recorded(path: Path) -> tuple[list[Job], dict[str, Any], int]:
    """The jobs, what is known of each, and the cores."""
    record = json.loads(path.read_text())
    jobs = [
        Job(
            key=each["key"], stage=each["phase"], version=1, phase=each["phase"], parents=tuple(each["parents"]),
            config={"precision": each["precision"]}, cells=(), resources=Resources(cpus=1),
            estimate=Estimate(cpu_hours=each["work"] / 3_600),
        )
        for each in record["jobs"]
    ]  # fmt: skip
    return jobs, {each["key"]: each for each in record["jobs"]}, record["cores"]


def replay(path: Path, part: float) -> tuple[float | None, float]:
    """Time left as it would have been told after that part of the run, and what was truly left."""
    found, capacity, left = stand_within(path, part)
    return estimate_time_left(found, capacity).seconds, left


def stand_within(path: Path, part: float) -> tuple[Progress, Capacity, float]:
    """What was known after that part of the run, its cores, and the seconds that were truly left."""
    jobs, facts, cores = load_recorded(path)
    begin = min(each["began"] for each in facts.values())
    end = max(each["ended"] for each in facts.values())
    now = begin + part * (end - begin)
    finished = {
        key: FinishedTime(wall=each["ended"] - each["began"], steps=each["steps"], ended_at=each["ended"])
        for key, each in facts.items()
        if each["ended"] <= now
    }
    found = Progress(
        jobs=jobs,
        models={key: each["model"] for key, each in facts.items()},
        finished=finished,
        running={key: now - each["began"] for key, each in facts.items() if each["began"] <= now < each["ended"]},
        done=frozenset(finished),
    )
    return found, Capacity(cores=cores, gpus=0, basis=""), end - now


@pytest.mark.parametrize(
    ("path", "part", "factor"),
    [
        (STEADY, 0.25, 1.5), (STEADY, 0.5, 1.5), (STEADY, 0.6, 1.5), (STEADY, 0.75, 1.5), (STEADY, 0.9, 1.5),
        (BUSY, 0.25, 2), (BUSY, 0.5, 2), (BUSY, 0.6, 1.5), (BUSY, 0.75, 1.5), (BUSY, 0.9, 1.5),
        (TWO_CORES, 0.25, 1.25), (TWO_CORES, 0.5, 1.25), (TWO_CORES, 0.6, 1.25),
        (TWO_CORES, 0.75, 1.25), (TWO_CORES, 0.9, 1.25),
    ],
)  # fmt: skip
def test_a_recorded_run_was_told_its_time_left_within_a_factor(path: Path, part: float, factor: float) -> None:
    told, true = replay(path, part)
    assert told is not None
    assert true / factor <= told <= true * factor


def test_before_each_kind_of_job_had_finished_once_nothing_was_told() -> None:
    assert replay(STEADY, 0.05)[0] is None
    assert replay(BUSY, 0.05)[0] is None
    assert replay(TWO_CORES, 0.1)[0] is None


def test_trunk_and_image_text_run_of_a_model_stand_in_for_each_other() -> None:
    jobs = [job("a", phase="pretrain"), job("t", phase="trunk")]
    assert seconds(progress(jobs, {"a": (110, 100)})) == pytest.approx(110)
