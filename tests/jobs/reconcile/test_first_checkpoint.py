import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from jobs.job import Estimate, Job, Resources
from jobs.reconcile.canary import CanaryLimits, Judgement, Verdict
from jobs.reconcile.first_checkpoint import find_problem, judge_job
from jobs.reconcile.snapshot import RunStatus
from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from tests.jobs.toy import toy_job

GIB = 1 << 30
USUAL = CanaryLimits()
ON_GPUS = replace(
    toy_job("a", resources=Resources(gpus_per_node=4)),
    estimate=Estimate(gpu_hours=4 * 1000 / 3600 + 0.1, startup_hours=0.1, gpu_memory_bytes=40 * GIB),
)
"""A job of 1,000 s of steps, on four GPUs with 40 GiB of each."""


def lines(losses: Sequence[float], *, step_s: float = 1.0, total: int = 1_000, **more: Any) -> list[dict[str, Any]]:
    """A line of metrics for each loss, ten steps apart."""
    return [
        {
            "step": 10 * number,
            "first_step": 0,
            "total_steps": total,
            "loss": loss,
            "time": 1e9 + 10 * number * step_s,
            **more,
        }
        for number, loss in enumerate(losses, 1)
    ]


def test_a_loss_that_falls_or_stays_is_sane() -> None:
    assert find_problem(ON_GPUS, lines([11.0, 8.0, 6.0, 5.5, 5.2]), USUAL) == ""
    assert find_problem(ON_GPUS, lines([2.0, 2.05, 1.98, 2.03, 2.01, 2.04]), USUAL) == ""
    assert find_problem(ON_GPUS, lines([2.0, 9.0]), USUAL) == ""  # too few to say
    assert find_problem(ON_GPUS, [], USUAL) == ""


def test_a_loss_that_is_not_finite_is_none() -> None:
    for bad in (float("nan"), float("inf")):
        assert (
            find_problem(ON_GPUS, lines([3.0, 2.0, bad, 2.0]), USUAL) == f"has a loss of {bad} in line 3 of its metrics"
        )


def test_a_loss_that_no_float_can_hold_is_told_and_no_traceback() -> None:
    huge = find_problem(ON_GPUS, lines([3.0, 10**400, 2.0]), USUAL)
    assert huge == "has a loss of more than any number can be in line 2 of its metrics"


def test_a_rising_loss_is_told_unless_it_lies_in_the_stated_band() -> None:
    rising = lines([2.0, 2.2, 2.6, 3.1, 3.6, 4.2])
    assert find_problem(ON_GPUS, rising, USUAL) == "has a rising loss, from 2.1 to 3.9"
    assert find_problem(ON_GPUS, rising, CanaryLimits(loss=(0.0, 5.0))) == ""
    assert find_problem(ON_GPUS, rising, CanaryLimits(loss=(0.0, 3.0))).endswith(", and 0 to 3 is stated")
    assert find_problem(ON_GPUS, lines([9.0, 8.0, 7.0, 6.0]), CanaryLimits(loss=(0.0, 3.0))) == ""  # it falls


def test_memory_is_held_against_the_plan() -> None:
    assert find_problem(ON_GPUS, lines([3.0, 2.0], peak_memory_gib=49.0), USUAL) == ""
    told = find_problem(ON_GPUS, lines([3.0, 2.0], peak_memory_gib=60.0), USUAL)
    assert told == "takes 60.0 GiB on a GPU, and 40.0 GiB are planned"
    assert find_problem(ON_GPUS, lines([3.0, 2.0], peak_memory_gib=60.0), CanaryLimits(memory_factor=2.0)) == ""
    unknown = replace(ON_GPUS, estimate=Estimate(gpu_hours=1.0))
    assert find_problem(unknown, lines([3.0, 2.0], peak_memory_gib=60.0), USUAL) == ""


def test_speed_is_held_against_the_plan_where_it_costs_more_than_a_minute() -> None:
    assert find_problem(ON_GPUS, lines([3.0, 2.0, 1.0], step_s=2.9), USUAL) == ""
    told = find_problem(ON_GPUS, lines([3.0, 2.0, 1.0], step_s=5.0), USUAL)
    assert told == "is 5.0 times as slow as planned: 5 s a step, 1 s planned"
    assert find_problem(ON_GPUS, lines([3.0, 2.0, 1.0], step_s=5.0), CanaryLimits(speed_factor=6.0)) == ""
    short = replace(ON_GPUS, estimate=Estimate(gpu_hours=4 * 10 / 3600))
    assert find_problem(short, lines([3.0, 2.0, 1.0], step_s=0.05), USUAL) == ""  # 50 s in place of 10


def test_a_pause_between_two_attempts_is_no_speed() -> None:
    found = lines([5.0, 4.0, 3.0, 2.0, 1.0])
    for line in found[2:]:
        line["time"] += 86_400
    assert find_problem(ON_GPUS, found, USUAL) == ""


@pytest.fixture
def begun(store: Store) -> RunStatus:
    run = store.locate_run("pretrain", "a")
    run.root.mkdir(parents=True)
    return RunStatus(stage_folder=str(run.root.parent), key="a")


def save(status: RunStatus, metrics: Sequence[Any]) -> None:
    """A first checkpoint, and the lines until then."""
    folder = status.run.checkpoints / "step-00000010"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"files": {}}))
    status.run.metrics.write_text("".join(json.dumps(line) + "\n" for line in metrics) + '{"torn')


def judge(job: Job, status: RunStatus, state: JobState = JobState.RUNNING) -> Judgement:
    return judge_job(job, status, state, USUAL)


def test_nothing_is_said_before_the_first_checkpoint(begun: RunStatus) -> None:
    begun.run.metrics.write_text('{"loss": NaN}\n')
    assert judge(ON_GPUS, begun) == Judgement(Verdict.PENDING)
    assert judge(ON_GPUS, begun, JobState.INTERRUPTED) == Judgement(Verdict.PENDING)
    told = judge(ON_GPUS, begun, JobState.FAILED)
    assert told == Judgement(Verdict.BROKEN, "failed: no reason is known")


def test_a_first_checkpoint_with_sane_metrics_speaks_for_the_shape_and_so_it_stays(begun: RunStatus) -> None:
    save(begun, lines([5.0, 4.0, 3.0]))
    assert judge(ON_GPUS, begun) == Judgement(Verdict.SOUND)
    assert judge(ON_GPUS, begun, JobState.FAILED) == Judgement(Verdict.SOUND)  # days later, by a node


def test_a_first_checkpoint_with_an_insane_loss_speaks_against_it(begun: RunStatus) -> None:
    save(begun, lines([5.0, 4.0, float("nan")]))
    assert judge(ON_GPUS, begun) == Judgement(Verdict.BROKEN, "has a loss of nan in line 3 of its metrics")


def test_a_stage_without_loss_is_judged_by_its_end_alone(begun: RunStatus) -> None:
    assert judge(ON_GPUS, replace(begun, done=True), JobState.DONE) == Judgement(Verdict.SOUND)


def test_metrics_of_another_form_say_nothing(begun: RunStatus) -> None:
    save(begun, [{"loss": "2"}, {"loss": True}, {"step": None, "time": "now"}, [1], {"peak_memory_gib": "much"}, {}])
    assert judge(ON_GPUS, begun) == Judgement(Verdict.SOUND)


def test_a_folder_that_cannot_be_read_says_nothing(begun: RunStatus) -> None:
    assert judge(ON_GPUS, replace(begun, readable=False), JobState.UNKNOWN) == Judgement(Verdict.PENDING)
