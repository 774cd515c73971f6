"""What hours amount to in each unit."""

from dataclasses import replace

import pytest

from jobs.job import Estimate, Resources
from jobs.reconcile.usage import Usage
from sweep.budget.prices import Prices, parse_prices
from sweep.budget.tariff import Amount, Tariff
from sweep.catalog.power import load_power_table
from tests.jobs.toy import toy_job

PRICES = Prices(currency="EUR", gpu_hour={"a100": 2.0, "h100": 5.0}, core_hour=0.5, source="a list")
GPU_JOB = toy_job("g", resources=Resources(gpus_per_node=4, gpu_type="h100", cpus=8))
CPU_JOB = toy_job("c", resources=Resources(cpus=4, nodes=2))


def test_an_hour_on_gpus_has_the_price_of_the_gpus_and_all_cores() -> None:
    hour = Tariff(PRICES).measure_wall_hour(GPU_JOB)
    assert (hour.gpu_hours, hour.core_hours, hour.money) == (4, 8, 20.0)
    assert hour.a100_hours == pytest.approx(4 * 2.9)


def test_an_hour_on_cores_has_their_price_and_no_a100_hours() -> None:
    hour = Tariff(PRICES).measure_wall_hour(CPU_JOB)
    assert (hour.gpu_hours, hour.a100_hours, hour.core_hours, hour.money) == (0, 0, 8, 4.0)


def test_without_a_price_nobody_knows_the_money() -> None:
    assert Tariff(None).measure_wall_hour(GPU_JOB).money is None
    assert Tariff(replace(PRICES, core_hour=None)).measure_wall_hour(CPU_JOB).money is None
    assert Tariff(replace(PRICES, gpu_hour={})).measure_wall_hour(GPU_JOB).money is None


def test_a_slice_without_a_price_has_its_share_of_the_whole() -> None:
    job = toy_job("s", resources=Resources(gpus_per_node=1, gpu_type="a100-1g.10gb"))
    assert Tariff(PRICES).measure_wall_hour(job).money == pytest.approx(2.0 / 7)
    own = replace(PRICES, gpu_hour={"a100": 2.0, "a100-1g.10gb": 0.4})
    assert Tariff(own).measure_wall_hour(job).money == 0.4


def test_what_was_allocated_counts_and_not_what_was_asked_for() -> None:
    usage = Usage(seconds=3600, cpu_seconds=7200, gpu_seconds=3 * 3600)
    found = Tariff(PRICES).measure_usage(GPU_JOB, usage, "h100", "a100=2,h100=1")
    assert found.money == pytest.approx(2 * 2.0 + 5.0)
    assert found.a100_hours == pytest.approx(2 + 2.9)
    unknown = Tariff(PRICES).measure_usage(GPU_JOB, usage, "h100", "shard=3")
    assert (unknown.a100_hours, unknown.money, unknown.kwh, unknown.core_hours) == (None, None, None, 2)


def test_an_estimate_without_hours_is_taken_as_it_is() -> None:
    job = replace(toy_job("t"), estimate=Estimate(a100_hours=2.0))
    assert Tariff(PRICES).measure_estimate(job).a100_hours == 2.0


def test_an_estimate_is_priced_by_its_wall_clock_hours() -> None:
    job = replace(GPU_JOB, estimate=Estimate(gpu_hours=40.0, a100_hours=116.0))
    found = Tariff(PRICES).measure_estimate(job)
    assert (found.gpu_hours, found.a100_hours, found.core_hours, found.money) == (40, 116, 80, 200)


def test_energy_follows_the_load_of_the_phase() -> None:
    power = load_power_table()
    training, answering = (
        Tariff(PRICES).measure_wall_hour(replace(GPU_JOB, phase=phase)).kwh for phase in ("pretrain", "evaluate")
    )
    assert training == pytest.approx(4 * power.gpus["h100"].compute_watts(power.loads["pretrain"]) / 1000)
    assert answering is not None
    assert training is not None
    assert answering < training < 4 * (700 + 575) / 1000


def test_what_is_unknown_of_one_is_unknown_of_the_sum() -> None:
    total = Amount(money=1.0, core_hours=1.0) + Amount(money=None, core_hours=2.0)
    assert (total.money, total.core_hours) == (None, 3.0)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([], "no JSON object"),
        ({"currency": "E U"}, "currency is 'E U'"),
        ({"currency": "EUR", "gpu_hour": {"a100": -1}}, "gpu_hour is"),
        ({"currency": "EUR", "gpu_hour": {"a100": float("inf")}}, "gpu_hour is"),
        ({"currency": "EUR", "core_hour": "1"}, "core_hour is '1'"),
    ],
)
def test_prices_that_are_none_are_refused(record: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_prices(record)


def test_prices_are_read_as_they_were_written() -> None:
    assert parse_prices({**PRICES.build_record(), "added_later": 1}) == PRICES
    assert parse_prices(None) is None
