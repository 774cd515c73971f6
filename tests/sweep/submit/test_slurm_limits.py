"""What was chosen for a sweep lasts: caps, budget, cells, back end hold in every later round until they are lifted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.job import Estimate
from jobs.reconcile.state import JobState
from sweep.budget.prices import Prices
from sweep.plan.manifest import read_manifest, write_manifest
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.slurm_toy import ToySweep, drain, sweep

CELLS = [f"c{index}" for index in range(6)]


@pytest.fixture
def toys(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToySweep:
    """Twelve jobs in six cells on a cluster that does not start any."""
    drain(slurm)
    pretrain = [toy.toy_job(f"{cell}-pre", cells=[cell]) for cell in CELLS]
    finetune = [toy.toy_job(f"{cell}-ft", f"{cell}-pre", phase="finetune", cells=[cell]) for cell in CELLS]
    jobs = [replace(job, estimate=Estimate(a100_hours=1.0)) for job in [*pretrain, *finetune]]
    return ToySweep(slurm, tmp_path, jobs, monkeypatch)


def tick_ten_times(toys: ToySweep) -> int:
    """Jobs that went out."""
    return sum(toys.tick()["sent"] for _ in range(10))


def test_caps_of_a_submission_hold_through_ten_ticks_and_are_lifted_by_name(toys: ToySweep) -> None:
    cells = CELLS[:3]
    assert (
        toys.sent("submit", "--max-queued", "2", "--only", *cells, "--budget-a100-hours", "6.5", "--pace", "0")[0] == 2
    )
    assert tick_ten_times(toys) == 0
    assert len(toys.queue()) == 2
    told = toys.sweep("status", "--fresh")
    assert "--max-queued 2  (" in told.out
    assert "--only c0 c1 c2  (" in told.out
    limits = toys.sweep("status", "--json").json["limits"]
    assert (limits["max_queued"], limits["only"], limits["budget_a100_hours"]) == (2, cells, 6.5)
    assert limits["set"]["max_queued"].keys() == {"by", "at"}

    assert toys.sweep("limits", "--max-queued", "none").code == 0
    assert tick_ten_times(toys) == 4
    assert len(toys.queue()) == 6
    assert toys.sweep("limits", "--only", "all").code == 0
    told = toys.sweep("tick", "--no-results", "--json")  # all twelve jobs are above the budget
    assert (told.code, told.json["sent"], told.json["problem"]) == (0, 0, "")
    [row] = told.json["budget"]
    assert (row["spent"], row["in_flight"], row["left"], row["held_back"]) == (0, 6, 0.5, 3)
    assert "budget of 6.50 A100-hours: 0.00 spent, 6.00 in flight" in toys.sweep("status", "--fresh").out
    assert toys.sweep("limits", "--budget-a100-hours", "none", "--pace", "none").out.startswith("no limits")
    assert tick_ten_times(toys) == 6
    assert len(toys.queue()) == 12


def test_a_resumption_obeys_the_kept_back_end_and_cap(toys: ToySweep) -> None:
    toy.plan(toys.store, toys.jobs, backend="local")
    assert toys.sent("submit", "--backend", "slurm", "--max-queued", "3")[0] == 3
    assert toys.sweep("cancel").code == 0
    assert toys.queue() == {}
    told = toys.sweep("resume", "--json")
    assert (told.code, told.json["sent"]) == (0, 3)
    assert "limits: --backend slurm" in told.err
    assert len(toys.queue()) == 3


def test_an_option_of_a_tick_and_cells_of_a_resumption_hold_once(toys: ToySweep) -> None:
    assert toys.sent("submit", "--max-queued", "2")[0] == 2
    assert toys.sent("tick", "--max-queued", "4")[0] == 2
    toys.sweep("cancel", "c0", "c1")
    assert toys.sent("tick", "--max-queued", "1")[0] == 1
    assert toys.sweep("resume", "--cells", "c1", "--json").json["jobs"] == 2
    assert toys.sweep("limits", "--json").json["max_queued"] == 2
    assert toys.sweep("limits", "--json").json["only"] == []


def test_limits_that_cannot_be_read_stop_the_round_and_are_not_taken_for_none(toys: ToySweep) -> None:
    path = toys.store.locate_sweep(toy.SWEEP).limits
    path.write_text(json.dumps({"format": 1, "max_queued": "2"}))
    told = toys.sweep("tick", "--no-results")
    assert (told.code, toys.queue()) == (1, {})
    assert f"{path}: max_queued is '2'" in told.err
    path.unlink()
    assert toys.sent("tick")[0] == 12


def test_cells_that_left_the_plan_are_no_reason_to_send_all(toys: ToySweep) -> None:
    toys.sent("submit", "--only", "c0", "c1")
    toy.plan(toys.store, [job for job in toys.jobs if "c1" not in job.cells], backend="slurm")
    assert toys.tick()["sent"] == 0
    toy.plan(toys.store, [job for job in toys.jobs if not {"c0", "c1"} & set(job.cells)], backend="slurm")
    told = toys.sweep("tick", "--no-results")
    assert told.code == 1
    assert "lift it: `sweep limits toy --only all`" in told.err


def test_limits_are_those_of_one_sweep(toys: ToySweep) -> None:
    toys.sent("submit", "--max-queued", "1")
    toy.plan(toys.store, [toy.toy_job("x"), toy.toy_job("y")], sweep="other", backend="slurm")
    told = sweep("submit", "other", "--json", "--store", str(toys.store.root))
    assert told.json["sent"] == 2
    assert JobState.QUEUED in toys.states().values()


def test_a_lower_budget_takes_queued_jobs_out_again_and_a_higher_one_sends_them(toys: ToySweep) -> None:
    assert toys.sent("submit", "--budget-a100-hours", "12") == (12, 2)
    assert toys.sweep("limits", "--budget-a100-hours", "5.5").code == 0
    report = toys.tick()
    assert (report["withdrawn"], report["sent"], len(toys.queue())) == (7, 0, 5)
    assert toys.tick()["withdrawn"] == 0
    assert toys.sweep("limits", "--budget-a100-hours", "none").code == 0
    assert toys.tick()["sent"] == 7


def test_core_hours_and_money_have_budgets_of_their_own(toys: ToySweep) -> None:
    """A job without an estimate counts at its time limit: an hour on one core."""
    refused = toys.sweep("submit", "--budget-money", "3")
    assert (refused.code, toys.queue()) == (2, {})
    assert "--budget-money needs prices" in refused.err
    assert toys.sent("submit", "--budget-core-hours", "2.5")[0] == 2
    path = toys.store.locate_sweep(toy.SWEEP).manifest
    prices = Prices(currency="EUR", core_hour=0.5, source="a list")
    write_manifest(path, replace(read_manifest(path), prices=prices))
    assert toys.sweep("limits", "--budget-core-hours", "none", "--budget-money", "3").code == 0
    told = toys.sweep("tick", "--no-results")
    assert (told.code, len(toys.queue())) == (0, 6)
    assert "budget of 3.00 EUR: 0.00 spent, 3.00 in flight, 0.00 left" in told.err
    write_manifest(path, replace(read_manifest(path), prices=replace(prices, currency="USD")))
    told = toys.sweep("tick", "--no-results")
    assert told.code == 1
    assert "the budget is in EUR, and the plan's prices are in USD" in told.err
