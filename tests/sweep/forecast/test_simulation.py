"""Draws of a campaign, beside what one can work out by hand."""

from dataclasses import replace
from math import inf, log
from statistics import mean

import pytest

from sweep.forecast.campaign import Campaign, CampaignJob, JobShape, Pool, QueueLimit, Spread
from sweep.forecast.simulation import iter_draws
from sweep.report.time_left import Capacity, Progress, compute_schedule_end
from tests.sweep.report.test_time_left import job as toy_job

SHAPE = JobShape(name="job", gpus=1)


def job(seconds: float, *parents: int, shape: int = 0, **changes: object) -> CampaignJob:
    known = CampaignJob(key="", shape=shape, steps=Spread(median=seconds), parents=parents)
    return replace(known, **changes)  # type: ignore[arg-type]


def campaign(jobs: list[CampaignJob], shape: JobShape = SHAPE, **changes: object) -> Campaign:
    known = Campaign(jobs=jobs, shapes=[shape], tick_s=0.0, next_tick_s=0.0)
    return replace(known, **changes)  # type: ignore[arg-type]


def ends(given: Campaign) -> list[float]:
    (draw,) = iter_draws(given, 1, 1)
    return list(draw.ends)


def gpus(most: float, *, holds_back: bool = False) -> list[Pool]:
    return [Pool(name="gpus", most=most, holds_back=holds_back)]


ON_GPUS = replace(SHAPE, takes=((0, 1.0),))


def test_a_child_begins_when_its_last_parent_ends() -> None:
    assert ends(campaign([job(10), job(30), job(5, 0, 1)])) == [10, 30, 35]


def test_jobs_take_turns_on_the_gpus_that_there_are() -> None:
    assert ends(campaign([job(10)] * 5, ON_GPUS, pools=gpus(2))) == [10, 10, 20, 20, 30]


def test_a_job_that_wants_more_than_there_is_takes_all_of_it() -> None:
    wide = replace(ON_GPUS, takes=((0, 8.0),))
    assert ends(campaign([job(10)] * 2, wide, pools=gpus(2))) == [10, 20]


def test_each_attempt_takes_its_start_up() -> None:
    shape = replace(SHAPE, startup=Spread(median=3), limit_s=10)
    # 7 s of steps an attempt: 7, 7 and 6
    assert ends(campaign([job(20)], shape)) == [10 + 10 + 9]


def test_a_limit_that_leaves_no_time_for_a_step_is_an_end_that_never_comes() -> None:
    shape = replace(SHAPE, startup=Spread(median=10), limit_s=10)
    assert ends(campaign([job(1), job(1, 0)], shape)) == [inf, inf]


def test_a_running_job_has_the_rest_of_its_limit() -> None:
    shape = replace(SHAPE, startup=Spread(median=3), limit_s=10)
    # 4 s until its limit, then 3 of start-up and the 6 that are left
    assert ends(campaign([job(10, running_s=6.0)], shape)) == [4 + 9]


@pytest.mark.parametrize("parent", [{"running_s": 6.0}, {"queued": True}])
def test_each_job_that_is_not_sent_yet_is_sent_once_behind_what_is(parent: dict[str, object]) -> None:
    given = campaign([job(10, **parent), job(10, 0), job(10, 1)], ON_GPUS, pools=gpus(1, holds_back=True))  # type: ignore[arg-type]
    (draw,) = iter_draws(given, 1, 1)
    assert len(draw.attempts) == 3
    assert list(draw.ends) == [10, 20, 30]


def test_a_wait_begins_when_nothing_of_the_sweep_holds_the_job_back() -> None:
    shape = replace(SHAPE, wait=Spread(median=5))
    assert ends(campaign([job(10), job(10, 0)], shape)) == [15, 30]


def test_ticks_send_what_the_queue_has_room_for() -> None:
    shape = replace(SHAPE, submit_limits=(0,))
    limited = campaign([job(10)] * 3, shape, submit_limits=[QueueLimit(name="own", most=1)], tick_s=60.0)
    assert ends(limited) == [10, 70, 130]
    assert ends(limited.lift_ticks()) == [10, 20, 30]
    assert ends(limited.lift_submit_limit(0)) == [10, 10, 10]


def test_the_first_tick_comes_when_it_is_said_and_else_at_any_moment() -> None:
    shape = replace(SHAPE, submit_limits=(0,))
    limited = campaign([job(10)] * 2, shape, submit_limits=[QueueLimit(name="own", most=1)], tick_s=60.0)
    assert ends(replace(limited, next_tick_s=25.0)) == [10, 35]
    assert ends(replace(limited, next_tick_s=5.0)) == [10, 75]
    found = sorted(draw.end for draw in iter_draws(replace(limited, next_tick_s=None), 600, 1))
    assert 20 < found[0] < 22
    assert 78 < found[-1] < 80
    assert mean(found) == pytest.approx(50, abs=2)


def test_start_up_is_another_for_each_attempt() -> None:
    shape = replace(SHAPE, startup=Spread(median=10, sigma=0.5))
    found = sorted(draw.end for draw in iter_draws(campaign([job(0)], shape), 2_001, 1))
    assert found[1_000] == pytest.approx(10, rel=0.05)
    assert log(found[1_683] / 10) == pytest.approx(0.5, abs=0.08)


def test_what_others_have_in_the_queue_takes_room() -> None:
    shape = replace(SHAPE, submit_limits=(0,))
    limit = QueueLimit(name="account", most=3, used=2)
    assert ends(campaign([job(10)] * 2, shape, submit_limits=[limit])) == [10, 20]


def test_jobs_behind_their_parents_in_the_queue_take_room() -> None:
    shape = replace(SHAPE, submit_limits=(0,))
    jobs = [job(10), job(10, 0), job(10)]
    chained = campaign(jobs, shape, submit_limits=[QueueLimit(name="own", most=2)])
    assert ends(chained) == [10, 20, 20]
    assert ends(replace(chained, chained=False)) == [10, 20, 10]


def test_a_wide_job_is_not_passed_by_what_would_run_beyond_its_start() -> None:
    shapes = [
        replace(ON_GPUS, limit_s=20),
        replace(ON_GPUS, takes=((0, 2.0),), limit_s=100),
        replace(ON_GPUS, limit_s=15),
    ]
    jobs = [job(10, shape=0), job(10, shape=1), job(10, shape=2)]
    held = Campaign(jobs=jobs, shapes=shapes, tick_s=0.0, pools=gpus(2, holds_back=True))
    assert ends(held) == [10, 20, 10]  # its limit of 15 s ends before the first job's of 20
    longer = replace(held, shapes=[*shapes[:2], replace(shapes[2], limit_s=25)])
    assert ends(longer) == [10, 20, 30]
    assert ends(replace(longer, pools=gpus(2))) == [10, 20, 10]


def test_the_mean_end_under_preemption_is_that_of_the_formula() -> None:
    """Time to a run of `length` without an event of rate `r`: (exp(r * length) - 1) / r."""
    rate, length = 1 / 3600, 1800.0
    shape = replace(SHAPE, preempted_per_hour=1.0, lost_s=1e9)
    found = [draw.end for draw in iter_draws(campaign([job(length)], shape), 4_000, 7)]
    assert mean(found) == pytest.approx((2.718281828 ** (rate * length) - 1) / rate, rel=0.04)


def test_a_failed_attempt_is_sent_again_by_the_next_tick() -> None:
    shape = replace(SHAPE, fail=0.5, lost_s=1e9)
    found = [draw.end for draw in iter_draws(campaign([job(100)], shape, tick_s=1000.0), 2_000, 3)]
    assert {end % 1000 for end in found} == {100.0}
    assert sum(end == 100 for end in found) / 2_000 == pytest.approx(0.5, abs=0.04)


def test_draws_are_equal_for_equal_seeds_and_the_first_of_many_are_those_of_few() -> None:
    shape = replace(ON_GPUS, fail=0.1, preempted_per_hour=3.0, wait=Spread(median=30, sigma=1))
    jobs = [replace(job(100, *([n - 3] if n > 2 else [])), steps=Spread(median=100, sigma=0.5)) for n in range(60)]
    given = campaign(jobs, shape, pools=gpus(4), doubt={"job": 0.3}, tick_s=50.0)
    few, many = ([draw.ends for draw in iter_draws(given, number, 5)] for number in (3, 6))
    assert few == many[:3]
    assert few != [draw.ends for draw in iter_draws(given, 3, 6)]


def test_what_is_lifted_changes_nothing_that_a_draw_decides_by_chance() -> None:
    shape = replace(ON_GPUS, fail=0.2, wait=Spread(median=30, sigma=1), submit_limits=(0,))
    jobs = [replace(job(100), steps=Spread(median=100, sigma=0.5)) for _ in range(40)]
    given = campaign(jobs, shape, pools=gpus(4), submit_limits=[QueueLimit(name="own", most=9)], tick_s=50.0)
    for lifted in (given.lift_pool(0), given.lift_submit_limit(0), given.lift_ticks()):
        pairs = list(zip(iter_draws(given, 40, 1), iter_draws(lifted, 40, 1), strict=True))
        for one, other in pairs:
            assert sum(end - start for start, end, _ in other.attempts) == pytest.approx(
                sum(end - start for start, end, _ in one.attempts)
            )
        # A single draw may end later without a limit, as another job goes first (Graham's anomaly); not the mean.
        assert mean(other.end for _, other in pairs) < mean(one.end for one, _ in pairs) + 1


def test_a_spread_is_lognormal_around_its_median() -> None:
    shape = replace(SHAPE, wait=Spread(median=10, sigma=0.5))
    waits = sorted(draw.end for draw in iter_draws(campaign([job(0)], shape), 4_001, 1))
    assert log(waits[2_000] / 10) == pytest.approx(0, abs=0.03)
    assert log(waits[3_366] / 10) == pytest.approx(0.5, abs=0.06)  # one sigma: 84.1 %


def test_on_one_machine_it_agrees_with_the_schedule_of_the_time_left() -> None:
    toys = [toy_job(str(n), *([str(n // 2)] if n > 3 else []), work=10 + 7 * (n * 37 % 11)) for n in range(1, 60)]
    seconds = {each.key: 3600 * each.estimate.cpu_hours for each in toys}
    known = Progress(jobs=toys, models={}, finished={}, running={})
    expected = compute_schedule_end(known, seconds, Capacity(cores=1, gpus=1, basis=""))
    places = {each.key: place for place, each in enumerate(toys)}
    jobs = [job(seconds[each.key], *[places[key] for key in each.parents]) for each in toys]
    shape = ON_GPUS
    found = ends(campaign(jobs, shape, pools=gpus(1), chained=False))
    assert max(found) == pytest.approx(expected)
