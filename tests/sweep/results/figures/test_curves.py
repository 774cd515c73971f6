"""Curves from metrics.parquet, and the runs that they are of."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.results.figures.curves import (
    MOST_BINS,
    MOST_VALUES,
    LoggedCurve,
    draw_learning_rates,
    load_curves,
    resample_curve,
    select_branched_runs,
)
from sweep.results.figures.style import OmittedFigure
from sweep.results.schemas import METRICS
from tests.sweep.results.score_rows import row


def test_only_learning_rates_and_losses_of_the_wanted_runs_are_kept(tmp_path: Path) -> None:
    entries = [
        {"key": key, "step": step, "tokens": 0, "name": name, "value": float(value)}
        for key, step, name, value in (
            ("a", 1, "loss", 3),
            ("a", 2, "loss", 2),
            ("a", 1, "losses.text", 1),
            ("a", 1, "grad_norm", 9),
            ("a", None, "gqa/score", 9),
            ("b", 1, "loss", 9),
        )
    ]
    pq.write_table(pa.Table.from_pylist(entries, schema=METRICS), tmp_path / "metrics.parquet")
    curves = load_curves(tmp_path / "metrics.parquet", {"a", "c"})
    assert curves == {"a": {"loss": LoggedCurve([1, 2], [3, 2]), "losses.text": LoggedCurve([1], [1])}, "c": {}}


def test_a_long_curve_is_halved_by_averaging_neighbours() -> None:
    curve = LoggedCurve()
    curve.add_points(range(MOST_VALUES + 1), [float(2 * step) for step in range(MOST_VALUES + 1)])
    assert len(curve.steps) == MOST_VALUES // 2 + 1
    assert (curve.steps[0], curve.values[0]) == (0.5, 1.0)
    assert (curve.steps[-1], curve.values[-1]) == (MOST_VALUES, 2 * MOST_VALUES)


def test_a_drawn_loss_is_the_mean_over_parts_of_the_run_without_what_is_not_finite() -> None:
    curve = LoggedCurve(list(range(2 * MOST_BINS + 1)), [1.0, 3.0] * MOST_BINS + [math.nan])
    steps, values = resample_curve(curve)
    assert steps[:2] == [0.5, 2.5]
    assert values == [2.0] * MOST_BINS
    assert resample_curve(LoggedCurve([1], [math.inf])) == ([], [])


def test_runs_differ_in_their_branch_point_only_and_share_a_trunk() -> None:
    rows = [
        row(branch=branch, pretrain_key=f"run{branch:g}", pretrain_loss=2.0, seed=seed)
        for branch in (0.0, 50.0, 100.0)
        for seed in (7, 9)
    ]
    rows = [each | {"pretrain_key": f"{each['pretrain_key']}-{each['seed']}"} for each in rows]
    jobs = [
        {"key": "half", "parents": []},
        {"key": "whole", "parents": ["half"]},
        {"key": "run50-7", "parents": ["half"]},
        {"key": "run100-7", "parents": ["whole"]},
    ]
    runs = select_branched_runs(rows, jobs)
    assert runs.branches == {0.0: "run0-7", 50.0: "run50-7", 100.0: "run100-7"}
    assert runs.trunk == ["half", "whole"]
    assert runs.starts == {50.0: "half", 100.0: "whole"}
    assert runs.caption.endswith("seed 7")


def test_settings_of_finished_runs_are_preferred() -> None:
    rows = [
        row(branch=branch, pretrain_key=f"{share}", pretrain_loss=loss, image_share=share)
        for branch, share, loss in ((0.0, 0.1, None), (50.0, 0.1, None), (0.0, 0.5, 2.0))
    ]
    assert select_branched_runs(rows, []).branches == {0.0: "0.5"}


def test_before_any_log_there_is_no_figure() -> None:
    runs = select_branched_runs([row(pretrain_key="run", pretrain_loss=None)], [])
    found = draw_learning_rates(runs, {"run": {}})
    assert found == OmittedFigure("learning_rate", "no run has logged a learning rate yet")
