"""What budgets leave room for, and whom they hold back."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from jobs.job import Estimate, Job
from jobs.reconcile.canary import CanaryLimits
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.budget.caps import BudgetWatch, Caps
from sweep.budget.prices import Prices
from sweep.budget.tariff import Tariff
from sweep.canary.rule import read_held_jobs
from sweep.kept_limits import KeptLimits
from sweep.plan.manifest import read_manifest, write_manifest
from sweep.stored_sweep import open_sweep
from tests.jobs import toy

PRICES = Prices(currency="EUR", gpu_hour={"a100": 2.0}, core_hour=1.0, source="a list")


def priced(key: str, hours: float, **options: object) -> Job:
    return replace(toy.toy_job(key, **options), estimate=Estimate(cpu_hours=hours))  # type: ignore[arg-type]


def watch(cap: float, prices: Prices = PRICES) -> BudgetWatch:
    return BudgetWatch(toy.SWEEP, Caps(amounts={"money": cap}, tariff=Tariff(prices)))


def plan(store: Store, jobs: Sequence[Job]) -> None:
    toy.plan(store, jobs, backend="slurm")


def test_there_is_no_room_for_a_job_of_which_nobody_knows_the_price(store: Store) -> None:
    plan(store, [priced("a", 1.0)])
    snapshot = open_sweep(store.root, toy.SWEEP).load_snapshot()
    assert watch(100.0).measure_room(snapshot).find_full("a") == []
    unknown = watch(100.0, replace(PRICES, core_hour=None))
    assert unknown.measure_room(snapshot).find_full("a") == ["--budget-money"]
    assert unknown.build_rows(snapshot)[0]["held_back"] == 1


def test_those_are_held_back_that_could_go(store: Store) -> None:
    jobs = [priced("dear", 200.0, fail="data"), priced("too", 200.0), priced("cheap", 1.0)]
    plan(store, jobs)
    toy.submit(store, jobs[:1])
    plan(store, jobs)
    snapshot = open_sweep(store.root, toy.SWEEP).load_snapshot()
    assert snapshot.runs["dear"].outcomes[-1].failure is FailureClass.DATA
    (row,) = watch(5.0).build_rows(snapshot)
    assert row["held_back"] == 1, "the failed one waits for a person and not for room"
    (row,) = watch(5.0).build_rows(snapshot, wanted={"cheap"})
    assert row["held_back"] == 0


@pytest.mark.parametrize("first", ["big", "s1"])
def test_a_job_without_room_does_not_go_first_of_its_shape(store: Store, first: str) -> None:
    """It would keep its cheaper siblings waiting for ever."""
    plan(store, [priced("big", 8.0), priced("s1", 1.0), priced("s2", 1.0)])
    path = store.locate_sweep(toy.SWEEP).manifest
    write_manifest(path, replace(read_manifest(path), canary=CanaryLimits()))
    stored = open_sweep(store.root, toy.SWEEP)
    snapshot = stored.load_snapshot()
    room = watch(5.0).measure_room(snapshot)
    unpayable = [key for key in snapshot.by_key if room.find_full(key)] if first == "s1" else []
    (held,) = read_held_jobs(stored, snapshot, KeptLimits(), unpayable).shapes.values()
    assert held.canary == first
