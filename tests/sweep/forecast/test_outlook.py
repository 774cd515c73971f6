"""What draws say together."""

from dataclasses import replace

import pytest

from sweep.forecast.campaign import Campaign, CampaignJob, JobShape, Pool, QueueLimit, Spread
from sweep.forecast.outlook import SpendingCap, find_longest_chain, find_quantiles, forecast_campaign

JOBS = [
    CampaignJob(
        key=str(n),
        shape=0,
        steps=Spread(median=3600, sigma=0.1),
        parents=(n - 1,) if n % 4 else (),
        phase="finetune" if n % 4 else "pretrain",
        cells=(f"c{n // 4}",),
    )
    for n in range(40)
]
SHAPE = JobShape(name="job", gpus=2, takes=((0, 2.0),), submit_limits=(0,))
GIVEN = Campaign(
    jobs=JOBS,
    shapes=[SHAPE],
    pools=[Pool(name="gpus", most=4)],
    submit_limits=[QueueLimit(name="the queue", most=1000)],
    tick_s=600.0,
)


def test_quantiles_lie_between_values_in_proportion() -> None:
    found = find_quantiles([float(n) for n in range(11)])
    assert (found.low, found.middle, found.high) == (1, 5, 9)
    assert find_quantiles([3.0]).high == 3


def test_the_end_the_phases_and_the_cells_come_from_the_same_draws() -> None:
    found = forecast_campaign(GIVEN, draws=60)
    assert found.end.low < found.end.middle < found.end.high
    assert found.end.middle == pytest.approx(20 * 3600, rel=0.05)
    assert found.phases["finetune"] == found.end
    assert max(each.middle for each in found.cells.values()) <= found.end.middle
    assert len(found.cells) == 10
    assert found.gpu_seconds.middle == pytest.approx(2 * 40 * 3600, rel=0.05)
    assert {quantiles.middle for _, quantiles in found.gpus_in_use[:-12]} == {4.0}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (GIVEN, "gpus"),
        (
            replace(GIVEN, pools=[], shapes=[replace(SHAPE, takes=(), wait=Spread(median=9_000))]),
            "waits in the site's queue",
        ),
        (
            replace(
                GIVEN,
                pools=[],
                shapes=[replace(SHAPE, takes=())],
                submit_limits=[QueueLimit(name="the queue", most=2)],
            ),
            "the queue",
        ),
        (
            replace(GIVEN, pools=[], shapes=[replace(SHAPE, takes=(), limit_s=600, startup=Spread(median=300))]),
            "time limits of attempts",
        ),
        (replace(GIVEN, pools=[], shapes=[replace(SHAPE, takes=(), fail=0.6, lost_s=1e6)]), "failures and preemptions"),
    ],
)
def test_what_binds_most_is_what_saves_most_when_it_is_lifted(given: Campaign, name: str) -> None:
    found = forecast_campaign(given, draws=30)
    assert found.binding[0].name == name
    assert found.binding[0].saved_s > 3600


def test_nothing_binds_where_the_chain_alone_takes_the_time() -> None:
    free = replace(GIVEN, pools=[], shapes=[replace(SHAPE, takes=())])
    assert forecast_campaign(free, draws=30).binding == []
    seconds, chain = find_longest_chain(free)
    assert (seconds, len(chain)) == (4 * 3600, 4)


def test_equal_arguments_give_an_equal_outlook() -> None:
    assert forecast_campaign(GIVEN, draws=10) == forecast_campaign(GIVEN, draws=10)
    assert forecast_campaign(GIVEN, draws=10) != forecast_campaign(GIVEN, draws=10, seed=2)


def test_two_limits_at_one_height_bind_together_and_are_named_together() -> None:
    """Four GPUs and four places in a queue: lifting one of them alone saves nothing."""
    one = replace(SHAPE, takes=((0, 1.0),))
    jobs = [CampaignJob(key=str(n), shape=0, steps=Spread(median=3600)) for n in range(40)]
    both = Campaign(
        jobs=jobs,
        shapes=[one],
        pools=[Pool(name="GPUs", most=4)],
        submit_limits=[QueueLimit(name="the queue", most=4)],
        tick_s=0.0,
    )
    (found,) = forecast_campaign(both, draws=12).binding
    assert found.name == "the queue and GPUs"
    assert found.saved_s == pytest.approx(9 * 3600)


def test_a_campaign_without_jobs_ends_now() -> None:
    found = forecast_campaign(Campaign(jobs=(), shapes=()))
    assert (found.draws, found.end.high, found.binding) == (0, 0.0, ())


def test_a_budget_is_passed_when_the_attempts_have_taken_it() -> None:
    """Two jobs at a time for an hour each, 40 of them: half of all is taken after half of the time."""
    sharp = replace(GIVEN, jobs=[replace(job, steps=Spread(median=3600)) for job in JOBS], drift=0.0)
    rates = [1 / 3600] * len(JOBS)
    caps = [SpendingCap(name=name, left=left, rates=rates) for name, left in (("half", 20.0), ("more", 41.0))]
    half, more = forecast_campaign(sharp, draws=5, caps=caps).overruns
    assert (half.chance, more.chance) == (1, 0)
    assert half.passed.middle == pytest.approx(10 * 3600, rel=0.01)
    assert half.total.middle == pytest.approx(40)
    assert more.passed.middle == float("inf")


def test_a_budget_that_is_passed_already_is_passed_at_once() -> None:
    cap = SpendingCap(name="gone", left=-1.0, rates=[1.0] * len(JOBS))
    [found] = forecast_campaign(GIVEN, draws=3, caps=[cap]).overruns
    assert (found.chance, found.passed.middle) == (1, 0)
