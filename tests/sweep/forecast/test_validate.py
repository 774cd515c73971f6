"""Forecasts beside the truth (`python -m tests.sweep.forecast.validate`) in short, and that the table counts right."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.forecast.conditions import OWN_LIMIT
from tests.slurm_lab import Lab
from tests.sweep.forecast.campaigns import JobDrawer, Obstacles, draw_campaign
from tests.sweep.forecast.validate import PARTS, Trial, format_table, lift_obstacle, try_campaign


@pytest.mark.slow
def test_a_small_campaign_on_a_real_cluster_ends_about_when_it_was_forecast(slurm: Lab, tmp_path: Path) -> None:
    obstacles = Obstacles(max_queued=2, at_once=4, tick_s=3.0)
    draw = JobDrawer(random.Random("short"), obstacles, off=1.0)
    spec = replace(draw_campaign("short"), obstacles=obstacles, jobs=draw.draw_cell("c0", "", epochs=1))
    trial = try_campaign(slurm, tmp_path, spec)
    assert {0.0} <= trial.forecasts.keys() <= set(PARTS)  # three jobs may end between two looks
    # not the other side: a machine that tests share may take far longer than anybody can say
    assert trial.measure_error(0.0) < 0.6
    for _, middle, _ in trial.forecasts.values():
        assert middle > 0
    assert all(seconds > 0 for _, seconds in trial.binding)


def test_campaigns_are_equal_for_equal_seeds() -> None:
    assert draw_campaign("3") == draw_campaign("3")
    assert draw_campaign("3") != draw_campaign("4")


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (OWN_LIMIT, {"max_queued": None}),
        ("the limit of QOS capped on your running jobs", {"qos": ""}),
        ("cores of partition main", {"at_once": 128}),
        ("the time between two ticks", {"tick_s": 1.0}),
        ("failures and preemptions", {"fail": 0.0, "requeues_per_minute": 0.0}),
    ],
)
def test_what_binds_can_be_taken_away(name: str, changed: dict[str, object]) -> None:
    obstacles = Obstacles(max_queued=3, qos="capped", at_once=4, fail=0.9, requeues_per_minute=1.0)
    draw = JobDrawer(random.Random(1), obstacles, off=1.0)
    spec = replace(draw_campaign("1"), obstacles=obstacles, jobs=draw.draw_cell("c0", "", epochs=2))
    freed = lift_obstacle(spec, name)
    assert freed is not None
    assert freed.obstacles == replace(obstacles, **changed)  # type: ignore[arg-type]
    assert (any("fail" in job.config for job in spec.jobs), len(freed.jobs)) == (True, len(spec.jobs))
    kept = {job.config.get("fail") for job in freed.jobs}
    assert kept == {None} if name.startswith("failures") else "kill" in kept
    assert all(bool(job.resources.options) != name.startswith("the limit of QOS") for job in freed.jobs)
    assert lift_obstacle(spec, "time limits of attempts") is None


def test_the_table_counts_the_ends_within_their_intervals() -> None:
    spec = draw_campaign("1", cells=1)
    near = Trial(spec=spec, took=100, forecasts={0.0: (80, 90, 110), 0.5: (99, 100, 101)}, binding=(), load=1.0)
    far = replace(near, forecasts={0.0: (40, 50, 60)}, binding=[("cores", 7.0)])
    table = format_table([near, far], {"1": ("cores", 7.0, 5.0)})
    assert near.measure_error(0.0) == pytest.approx(-0.1)
    assert (near.is_covered(0.0), far.is_covered(0.0)) == (True, False)
    assert "0% 40/50/60!" in table
    assert "1: without cores it took 5 s less; 7 s were forecast" in table
    rows = [line.split() for line in table.splitlines()[-2:]]
    assert rows == [["0%", "2", "-30.0%", "30.0%", "50%"], ["50%", "1", "+0.0%", "0.0%", "100%"]]
