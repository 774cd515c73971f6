"""What `sweep costs` says of a small store whose hours are known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.store.paths import Store
from sweep.budget.prices import Prices
from sweep.cli import main
from sweep.kept_limits import update_limits
from sweep.plan.manifest import read_manifest, write_manifest
from sweep.report.costs import format_costs, load_costs
from sweep.stored_sweep import StoredSweep, open_sweep
from tests.sweep import synthetic_store
from tests.sweep.synthetic_store import SECONDS, Grid

GRID = Grid(branches=(0, 50, 100), shares=(0.0, 0.5), epochs=(1,))
PRICES = Prices(currency="EUR", gpu_hour={"h100": 3.0}, source="the site's list")


@pytest.fixture
def stored(tmp_path: Path) -> StoredSweep:
    """Six cells; all but the evaluations are done, each in one attempt on four H100."""
    written = synthetic_store.plan(Store(tmp_path / "store"), GRID)
    synthetic_store.finish(written, [key for key in written.jobs if written.jobs[key]["phase"] != "evaluate"])
    path = written.store.locate_sweep("toy").manifest
    write_manifest(path, replace(read_manifest(path), prices=PRICES))
    return open_sweep(written.store.root, "toy")


def test_phases_cells_and_blocks_each_make_up_the_whole(stored: StoredSweep) -> None:
    report = load_costs(stored)
    for part in ("spent", "wasted", "in_flight", "ahead"):
        for unit in ("gpu_hours", "a100_hours", "core_hours", "money", "kwh"):
            whole = report["total"][part][unit]
            for group in ("phases", "blocks", "cells"):
                total = sum(row[part][unit] for row in report[group].values())
                assert total == pytest.approx(whole), (part, unit, group)


def test_hours_money_and_energy_are_those_of_the_attempts(stored: StoredSweep) -> None:
    report = load_costs(stored)
    trunk = report["phases"]["trunk"]
    hours = 2 * SECONDS["trunk"] / 3600  # two segments
    assert (trunk["jobs"], trunk["done"]) == (2, 2)
    assert trunk["spent"]["gpu_hours"] == pytest.approx(4 * hours)
    assert trunk["spent"]["a100_hours"] == pytest.approx(4 * hours * 2.9)
    assert trunk["spent"]["money"] == pytest.approx(4 * hours * 3.0)
    assert 0 < trunk["spent"]["kwh"] < 4 * hours * 1.3
    assert trunk["ahead"]["gpu_hours"] == 0
    evaluate = report["phases"]["evaluate"]
    assert (evaluate["done"], evaluate["spent"]["money"]) == (0, 0)
    assert evaluate["ahead"]["gpu_hours"] == 6 * 0.5
    assert evaluate["ahead"]["money"] == pytest.approx(6 * 0.5 * 3.0)


def test_a_cell_has_its_share_of_a_trunk(stored: StoredSweep) -> None:
    cells = load_costs(stored)["cells"]
    hours = {name: row["spent"]["gpu_hours"] for name, row in cells.items()}
    own = 4 * (SECONDS["pretrain"] + SECONDS["finetune"]) / 3600
    segment = 4 * SECONDS["trunk"] / 3600
    assert hours["2m-b0-i0-dense-s0"] == pytest.approx(own)
    assert hours["2m-b50-i0-dense-s0"] == pytest.approx(own + segment / 4)  # the first segment is of four cells
    assert hours["2m-b100-i0-dense-s0"] == pytest.approx(own + segment / 4 + segment / 2)


def test_without_prices_there_is_no_money(stored: StoredSweep) -> None:
    path = stored.paths.manifest
    write_manifest(path, replace(read_manifest(path), prices=None))
    report = load_costs(open_sweep(stored.store.root, "toy"))
    assert (report["currency"], report["total"]["spent"]["money"]) == ("", None)
    assert "EUR" not in format_costs(report)


def test_the_table_names_the_budget_and_what_the_energy_rests_on(stored: StoredSweep) -> None:
    update_limits(stored.paths.limits, {"budget_money": 10.0, "budget_currency": "EUR"})
    text = format_costs(load_costs(stored), ["2m-b0-i0-dense-s0"])
    assert "budget of 10.0 EUR" in text
    assert "2m-b0-i0-dense-s0" in text
    assert "the site's list" in text
    assert "an estimate, and not measured: by what GPUs and cores draw" in text


def test_the_command_prints_a_table_or_json(stored: StoredSweep, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["costs", "toy", "--store", str(stored.store.root)]
    assert main([*words, "--by-cell"]) == 0
    told = capsys.readouterr()
    assert told.out.count("2m-b") == 6
    assert told.err.startswith("next: `sweep forecast toy")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["currency"] == "EUR"


def test_what_to_type_after_the_costs_of_a_finished_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = synthetic_store.plan(Store(tmp_path / "store"), GRID)
    synthetic_store.finish(written)
    assert main(["costs", "toy", "--store", str(written.store.root)]) == 0
    assert capsys.readouterr().err.startswith("next: `sweep results toy")
