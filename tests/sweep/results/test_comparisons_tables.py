"""cells.parquet, summary.parquet and differences.parquet against sums over results.parquet in SQL."""

# ruff: noqa: S608 - queries are put together from names that this file gives
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import duckdb
import pytest

from jobs.store.paths import Store, write_json
from sweep.results.comparisons import format_best_epochs
from sweep.results.slices import MEASURES
from tests.sweep.results.results_run import written_tables
from tests.sweep.synthetic_store import Grid, Written, finish, plan, toy

GRID = Grid(branches=(0, 80, 100), shares=(0.0, 0.1, 0.5), seeds=(0, 1), epochs=(1, 2))
Query = Callable[[str], list[tuple[Any, ...]]]


def reader(written: Written) -> Query:
    """SQL over the tables of a sweep, as views."""
    connection = duckdb.connect()
    for name in ("results", "cells", "summary", "differences"):
        connection.read_parquet(str(written.store.locate_sweep(written.sweep).results / f"{name}.parquet")).create_view(
            name
        )
    return lambda query: connection.sql(query).fetchall()


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Query:
    written = toy(tmp_path_factory.mktemp("done"), GRID)
    written_tables(written)
    return reader(written)


def test_a_cell_has_a_row_with_its_best_number_of_epochs(ask: Query) -> None:
    for prefix, order in (("vision", "desc"), ("text", "desc"), ("bits_per_byte", "asc")):
        column = prefix if prefix == "bits_per_byte" else f"{prefix}_stable_score"
        best = ask(
            f"select distinct on (cell) cell, epochs, {column} from results order by cell, {column} {order}, epochs"
        )
        assert ask(f"select cell, {prefix}_best_epochs, {prefix}_best from cells order by cell") == best
    assert ask("select count(*), min(models), max(finished) from cells") == [(18, 2, 2)]
    beside = "select c.text_at_vision_best - r.text_stable_score, c.vision_best_stderr - r.vision_stable_stderr"
    assert set(ask(f"{beside} from cells c join results r on r.cell = c.cell and r.epochs = c.vision_best_epochs")) == {
        (0.0, 0.0)
    }


def test_a_cells_hours_are_those_of_its_models(ask: Query) -> None:
    hours = ask("select cell, sum(a100_hours_own + a100_hours_shared) from results group by cell order by cell")
    for (cell, found), (name, expected) in zip(
        ask("select cell, a100_hours from cells order by cell"), hours, strict=True
    ):
        assert (cell, found) == (name, pytest.approx(expected))


@pytest.mark.parametrize("by", ["branch", "image_share", "epochs", "branch image_share"])
def test_a_point_is_the_mean_over_its_models(ask: Query, by: str) -> None:
    axes = by.replace(" ", ", ")
    numbers = "count({0}), count({0}), avg({0}), stddev_samp({0}), min({0}), max({0})"
    expected = ask(
        f"select {axes}, {numbers.format('vision_stable_score')}, avg(vision_stable_stderr) from results "
        "group by all order by all"
    )
    found = ask(
        f"""select {axes}, models, n, mean, std, lowest, highest, test_stderr from summary
        where axes = '{by}' and score = 'vision' order by all"""
    )
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_axes_that_a_point_averages_over_are_null_and_all_others_are_there(ask: Query) -> None:
    columns = "branch, image_share, instruction_share, epochs, model, captions, amount"
    found = ask(f"""select distinct {columns} from summary where axes = 'image_share' order by all""")
    assert found == [(None, share, None, None, "2m", "dense", 1.0) for share in (0.0, 0.1, 0.5)]


def test_the_spread_over_seeds_is_pooled(ask: Query) -> None:
    pairs = ask(
        "select list(text_stable_score order by seed) from results where branch = 80 group by image_share, epochs"
    )
    pooled = math.sqrt(fmean(stdev(values) ** 2 for (values,) in pairs))
    query = """select seeds, seed_std from summary where axes = 'branch' and branch = 80 and score = 'text'"""
    assert ask(query) == [(2, pytest.approx(pooled))]


def test_points_by_all_four_axes_have_the_seeds_of_one_model(ask: Query) -> None:
    found = ask("""select n, seeds, std = seed_std from summary where axes like '% epochs' and score = 'text'""")
    assert found == [(2, 2, True)] * 18


def test_models_without_images_are_in_no_row_by_instruction_share_alone(ask: Query) -> None:
    assert ask("""select models from summary where axes = 'instruction_share' and score = 'text'""") == [(24,)]


def test_a_difference_is_the_mean_over_pairs_of_cells(ask: Query) -> None:
    pairs = ask(
        """select avg(b.vision_stable_score - a.vision_stable_score) from results a join results b
        using (image_share, seed, epochs) where a.branch = 80 and b.branch = 100 group by image_share, seed"""
    )
    values = [value for (value,) in pairs]
    found = ask(
        """select pairs, models, difference, stderr, test_stderr from differences where axis = 'branch'
        and first = '80' and second = '100' and score = 'vision'"""
    )
    expected = (6, 12, fmean(values), stdev(values) / math.sqrt(6), math.hypot(0.016, 0.02) / 2 * math.sqrt(2))
    assert found == [pytest.approx(expected)]


def test_every_two_values_of_an_axis_are_compared(ask: Query) -> None:
    found = ask("select axis, first, second from differences where score = 'text' order by all")
    assert found == [
        *(("branch", first, second) for first, second in (("0", "100"), ("0", "80"), ("80", "100"))),
        ("epochs", "1", "2"),
        *(("image_share", first, second) for first, second in (("0", "0.1"), ("0", "0.5"), ("0.1", "0.5"))),
    ]


def test_a_partial_sweep_has_partial_tables(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), GRID)
    cell = written.cells[0]
    finish(written, [cell["pretrain"], cell["chains"][0]["finetune"], cell["chains"][0]["evaluate"]])
    written_tables(written)
    ask = reader(written)
    assert ask("select finished, count(*), max(vision_best_epochs) from cells group by all order by all") == [
        (0, 17, None),
        (1, 1, 1),
    ]
    assert ask(
        """select models, n, std, seed_std, complete from summary where axes = 'branch' and score = 'vision'"""
    ) == [(12, 1, None, None, False)]
    assert ask("select count(*) from differences") == [(0,)]


def test_a_sweep_without_results_has_empty_tables(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), GRID)
    written_tables(written)
    ask = reader(written)
    assert ask("select count(*), sum(finished) from cells") == [(18, 0)]
    assert ask("select (select count(*) from summary), (select count(*) from differences)") == [(0, 0)]


def test_z_scores_compare_the_models_of_the_sweep(tmp_path: Path) -> None:
    written = toy(tmp_path, Grid(branches=(0,), shares=(0.1, 0.5), epochs=(1,)))
    for key, score in zip(written.phase("evaluate"), (0.4, 0.6), strict=True):
        path = written.run(key).result
        task = {"kind": "vision", "score": score, "stderr": 0.01, "n": 100}
        write_json(path, json.loads(path.read_text()) | {"scores": {"gqa": task, "vqav2": task}})
    written_tables(written)
    ask = reader(written)
    columns = "vision_z_score, vision_z_metrics, vision_tasks, vision_complete, vision_chance"
    assert ask(f"select {columns} from results order by 1") == [
        (pytest.approx(z), ["vqa-v2", "gqa"], ["gqa", "vqav2"], False, 0.25) for z in (-1.0, 1.0)
    ]
    assert ask("select difference from differences where score = 'vision_z'") == [(pytest.approx(2.0),)]


def test_the_summary_counts_the_cells_that_are_best_at_each_number_of_epochs() -> None:
    def model(cell: str, epochs: int, vision: float | None, state: str = "done") -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(measure.column for measure in MEASURES)
        return found | {"cell": cell, "epochs": epochs, "vision_stable_score": vision, "state": state}

    rows = [model("a", 1, 0.1), model("a", 2, 0.3), model("b", 1, 0.2), model("b", 2, 0.2), model("c", 2, 0.9)]
    unfinished = [model("d", 1, 0.1), model("d", 2, None, "running")]
    assert format_best_epochs([*rows, *unfinished]).splitlines() == [
        "epochs: cells that are best there  vision",
        "1                                       1",
        "2                                       1",
    ]
    assert format_best_epochs(unfinished) == ""
