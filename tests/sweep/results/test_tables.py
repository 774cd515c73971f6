"""results.parquet, jobs.parquet and metrics.parquet against independent sums over the records on disk."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store, write_json
from jobs.store.records import FailureClass
from sweep.errors import ManifestError
from sweep.results.schemas import SCHEMAS
from tests.sweep.results.results_run import written_tables
from tests.sweep.synthetic_store import (
    SECONDS,
    START,
    Grid,
    Written,
    finish,
    plan,
    result_of,
    toy,
    write_attempt,
    write_manifest,
)

SMALL = Grid(branches=(0, 50, 100), shares=(0.0, 0.5), epochs=(1, 2))
H100 = 2.9
"""A100-hours of an H100-hour (sweep/catalog/gpus.yaml)."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Written:
    written = toy(tmp_path_factory.mktemp("done"), SMALL)
    written_tables(written)
    return written


def rows(written: Written, table: str = "results") -> list[dict[str, Any]]:
    return list(getattr(written_tables(written), table).to_pylist())


def parquet(written: Written, table: str) -> Path:
    return written.store.locate_sweep(written.sweep).results / f"{table}.parquet"


def database(written: Written) -> duckdb.DuckDBPyConnection:
    """The three files as views."""
    connection = duckdb.connect()
    for table in ("results", "jobs", "metrics"):
        connection.read_parquet(str(parquet(written, table))).create_view(table)
    return connection


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines())


def test_there_is_one_row_for_each_fine_tuned_model_and_each_job(done: Written) -> None:
    tables = written_tables(done)
    assert tables.results.num_rows == 3 * 2 * 2
    assert tables.jobs["key"].to_pylist() == list(done.jobs)


def test_the_axes_stand_in_typed_columns(done: Written) -> None:
    row = rows(done)[0]
    axes = ("model", "branch", "image_share", "captions", "encoder", "freeze_encoder", "amount", "lr_at_branch", "seed")
    assert [row[axis] for axis in axes] == ["2m", 0.0, 0.0, "dense", "patches", True, 1.0, "trunk", 0]
    assert row["overrides"] == []
    assert row["parameters"] == 4 * (4 * 192**2 + 3 * 192 * 512 + 2 * 192) + 192 + 2 * 2048 * 192


def test_an_axis_without_a_column_is_an_override(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    written.cells[0]["axes"] |= {"finetune.peak_lr": 2e-5, "text": ["novels"], "branch": "half"}
    write_manifest(written)
    row = rows(written)[0]
    assert row["overrides"] == [("finetune.peak_lr", "2e-05"), ("text", '["novels"]')]
    assert row["branch"] is None


def test_a_branch_step_has_a_column_and_is_no_override(tmp_path: Path) -> None:
    """The step is the trunk's by the plan, so plans of before, which do not name it, have it too."""
    written = plan(Store(tmp_path), SMALL)
    of_50 = [cell for cell in written.cells if cell["axes"]["branch"] == 50]
    of_50[0]["axes"] |= {"branch": 49.97, "branch_step": 30}
    write_manifest(written)
    found = rows(written)
    assert {(row["branch"], row["branch_step"]) for row in found} == {(0.0, 0), (50.0, 30), (49.97, 30), (100.0, 60)}
    assert all(row["overrides"] == [] for row in found)
    assert {(row["branch"], row["branch_step"]) for row in pq.read_table(parquet(written, "cells")).to_pylist()} == {
        (row["branch"], row["branch_step"]) for row in found
    }


def test_scores_are_those_of_the_evaluation(done: Written) -> None:
    for row in rows(done):
        scores = json.loads(done.run(row["evaluate_key"]).result.read_text())["scores"]
        vision = [scores[name]["score"] - scores[name]["chance"] for name in ("shapes_val", "count_val")]
        assert row["vision_stable_score"] == pytest.approx(sum(vision) / 2)
        assert row["vision_stable_stderr"] == pytest.approx(math.hypot(0.016, 0.02) / 2)
        assert row["heldout_vision_accuracy"] == pytest.approx(scores["shapes_heldout"]["score"])
        assert row["text_chance"] == 0.25
        assert row["bits_per_byte"] == scores["text_loss"]["score"]
        assert {entry["task"]: entry["score"] for entry in row["scores"]} == {
            name: entry["score"] for name, entry in scores.items()
        }


def test_tokens_count_the_trunk_up_to_the_branch_point(done: Written) -> None:
    text = {row["branch"]: row["text_tokens"] for row in rows(done)}
    run = 122_880 - 2_880
    assert text == {0: run, 50: 30 * 4096 + run, 100: 60 * 4096 + run}
    assert {row["image_tokens"] for row in rows(done)} == {2_880}


def test_hours_are_those_of_the_records(done: Written) -> None:
    jobs = {row["key"]: row for row in rows(done, "jobs")}
    for key, row in jobs.items():
        hours = SECONDS[done.jobs[key]["phase"]] / 3600
        assert row["used_gpu_hours"] == pytest.approx(4 * hours)
        assert row["used_cpu_hours"] == pytest.approx(2 * hours)
        assert row["used_a100_hours"] == pytest.approx(4 * H100 * hours)
        assert row["wasted_gpu_hours"] == 0
        assert (row["planned_gpu_hours"], row["planned_a100_hours"], row["planned_cpu_hours"]) == (0.5, 1.0, 0.25)


@pytest.mark.parametrize("unit", ["gpu", "cpu", "a100"])
def test_own_and_shared_hours_add_up_to_what_all_jobs_took(done: Written, unit: str) -> None:
    models = sum(row[f"{unit}_hours_own"] + row[f"{unit}_hours_shared"] for row in rows(done))
    jobs = sum(row[f"used_{unit}_hours"] + row[f"wasted_{unit}_hours"] for row in rows(done, "jobs"))
    assert models == pytest.approx(jobs)


def test_the_trunk_is_charged_once_and_its_share_shown_apart(done: Written) -> None:
    trunk = 4 * SECONDS["trunk"] / 3600
    run = 4 * SECONDS["pretrain"] / 3600
    own = 4 * (SECONDS["finetune"] + SECONDS["evaluate"]) / 3600
    # the first segment serves 8 models (two branch points), the second 4; an image-text run serves 2
    shared = {0: run / 2, 50: run / 2 + trunk / 8, 100: run / 2 + trunk / 8 + trunk / 4}
    for row in rows(done):
        assert row["gpu_hours_own"] == pytest.approx(own)
        assert row["gpu_hours_shared"] == pytest.approx(shared[row["branch"]])
    assert sum(row["phase"] == "trunk" for row in rows(done, "jobs")) == 2


def test_a_trunk_segment_lists_the_cells_below_it(done: Written) -> None:
    first, second = [row for row in rows(done, "jobs") if row["phase"] == "trunk"]
    assert (len(first["cells"]), first["models"]) == (4, 8)
    assert (len(second["cells"]), second["models"]) == (2, 4)
    assert all("b100" in name for name in second["cells"])


def test_lost_work_is_counted_as_wasted(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    write_attempt(written, key, "a0", START - 1000, 600, failure=FailureClass.NODE_FAULT, message="ECC error")
    row = next(row for row in rows(written, "jobs") if row["key"] == key)
    assert row["attempts"] == 2
    assert row["wasted_gpu_hours"] == pytest.approx(4 * 600 / 3600)
    assert row["used_gpu_hours"] == pytest.approx(4 * SECONDS["finetune"] / 3600)
    model = next(row for row in rows(written) if row["key"] == key)
    assert model["gpu_hours_own"] == pytest.approx(4 * (600 + SECONDS["finetune"] + SECONDS["evaluate"]) / 3600)


def test_an_attempt_whose_supervisor_was_killed_is_credited_with_the_result(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    written.run(key).locate_attempt("a1").exit.unlink()
    row = next(row for row in rows(written, "jobs") if row["key"] == key)
    assert row["used_gpu_hours"] == pytest.approx(4 * SECONDS["finetune"] / 3600)
    assert (row["wasted_gpu_hours"], row["failure"]) == (0, None)


def test_work_up_to_the_last_checkpoint_of_a_failed_attempt_was_kept(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    key = written.phase("pretrain")[0]
    write_attempt(
        written, key, "a1", START, 600, failure=FailureClass.KILLED, checkpoint_step=20, checkpoint_at=START + 400
    )
    row = next(row for row in rows(written, "jobs") if row["key"] == key)
    assert row["used_gpu_hours"] == pytest.approx(4 * 400 / 3600)
    assert row["wasted_gpu_hours"] == pytest.approx(4 * 200 / 3600)


def test_hours_of_an_unknown_gpu_type_are_no_a100_hours(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("trunk")[0]
    write_attempt(written, key, "a2", START, 60, gpu_type="tpu")
    row = next(row for row in rows(written, "jobs") if row["key"] == key)
    assert row["used_a100_hours"] is None
    assert row["used_gpu_hours"] > 0
    by_branch = {row["branch"]: row["a100_hours_shared"] for row in rows(written)}
    assert by_branch[0] is not None
    assert (by_branch[50], by_branch[100]) == (None, None)


def test_the_same_evidence_gives_the_same_bytes(done: Written) -> None:
    names = tuple(SCHEMAS)
    before = {name: parquet(done, name).read_bytes() for name in names}
    shutil.rmtree(done.store.locate_sweep("toy").results)
    written_tables(done)
    assert {name: parquet(done, name).read_bytes() for name in names} == before


def test_metrics_are_the_logs_and_the_scores_in_long_form(done: Written) -> None:
    metrics = pd.read_parquet(parquet(done, "metrics"))
    logged = sum(
        len(entry) - 3 + len(entry["losses"])  # all but step, tokens and the nesting itself
        for path in done.store.runs.glob("*/*/metrics.jsonl")
        for entry in json_objects(path.read_text())
    )
    assert metrics["step"].notna().sum() == logged
    finetune = done.phase("finetune")[0]
    loss = metrics[(metrics["key"] == finetune) & (metrics["name"] == "loss")]
    assert loss["value"].tolist() == [4.9, 4.8, 4.7]
    assert loss["tokens"].tolist() == [40_960, 81_920, 122_880]
    assert set(metrics[metrics["key"] == finetune]["name"]) == {"loss", "lr", "losses.text", "time"}
    evaluate = done.phase("evaluate")[0]
    of_evaluation = metrics[metrics["key"] == evaluate].set_index("name")["value"]
    assert of_evaluation["cloze/chance"] == 0.25
    assert of_evaluation["cloze/acc"] == of_evaluation["cloze/score"]


def test_long_logs_are_written_batch_by_batch(done: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.read_parquet(parquet(done, "metrics"))
    with monkeypatch.context() as patched:
        patched.setattr("sweep.results.tables.BATCH_ROWS", 50)
        written_tables(done)
    assert pq.ParquetFile(parquet(done, "metrics")).num_row_groups > 5
    pd.testing.assert_frame_equal(pd.read_parquet(parquet(done, "metrics")), whole)
    written_tables(done)


def test_torn_and_foreign_lines_of_a_log_are_passed_over(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("pretrain")[0]
    log = written.run(key).metrics
    log.write_bytes(
        b'[1]\n\xff\xfe\n{"step":"x","loss":1.5,"flag":true,"name":"n"}\n' + log.read_bytes() + b'{"step":40,"lo'
    )
    written_tables(written)
    metrics = pd.read_parquet(parquet(written, "metrics"))
    found = metrics[metrics["key"] == key]
    assert found[found["name"] == "loss"]["value"].tolist() == [1.5, 4.9, 4.8, 4.7]
    assert found["step"].isna().sum() == 1
    assert not found["name"].isin(["flag", "name"]).any()


def test_a_diverged_loss_stays_nan(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("pretrain")[0]
    written.run(key).metrics.write_text('{"step":1,"loss":NaN}\n')
    written_tables(written)
    found = database(written).execute("select value from metrics where key = ?", [key]).fetchall()
    assert len(found) == 1
    assert math.isnan(found[0][0])


def test_a_partial_sweep_gives_rows_with_states_and_nulls(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    first = written.cells[0]
    finish(written, [first["pretrain"], first["chains"][0]["finetune"], first["chains"][0]["evaluate"]])
    finish(written, [first["chains"][1]["finetune"]])
    found = rows(written)
    assert [row["state"] for row in found[:3]] == ["done", "ready", "ready"]
    assert {row["state"] for row in found[2:]} == {"ready"}
    assert found[0]["vision_stable_score"] is not None
    assert found[1]["vision_stable_score"] is None
    assert found[1]["finetune_loss"] == 2.5
    assert found[2]["finetune_loss"] is None
    assert found[2]["parameters"] is not None
    states = {row["key"]: row["state"] for row in rows(written, "jobs")}
    assert states[first["chains"][1]["evaluate"]] == "ready"
    assert states[written.cells[-1]["pretrain"]] == "waiting"


def test_a_sweep_of_which_nothing_ran_gives_tables_too(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    tables = written_tables(written)
    assert tables.results.num_rows == 12
    assert {row["attempts"] for row in tables.jobs.to_pylist()} == {0}
    assert {row["used_gpu_hours"] for row in tables.jobs.to_pylist()} == {0.0}
    assert len(pd.read_parquet(parquet(written, "metrics"))) == 0


def test_a_failed_parent_shows_in_the_rows_that_wait_for_it(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    trunk = written.phase("trunk")[0]
    write_attempt(written, trunk, "a1", START, 60, failure=FailureClass.DIVERGED, message="loss is NaN at step 12")
    found = {row["key"]: row for row in rows(written, "jobs")}
    assert (found[trunk]["state"], found[trunk]["failure"]) == ("failed", "diverged")
    assert found[trunk]["failure_message"] == "loss is NaN at step 12"
    assert {row["branch"]: row["state"] for row in rows(written)} == {0: "ready", 50: "failed", 100: "failed"}


def test_a_cancelled_job_is_shown_as_such(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    key = written.cells[0]["pretrain"]
    Ledger(written.store.locate_sweep("toy").ledger).append([Event(event=EventKind.CANCELLED, key=key)])
    assert rows(written)[0]["state"] == "cancelled"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":1}', b"\xff\xfe"])
def test_a_damaged_result_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    written = toy(tmp_path, SMALL)
    row = rows(written)[0]
    written.run(row["evaluate_key"]).result.write_bytes(damage)
    again = rows(written)[0]
    assert again["state"] != "done"
    assert again["vision_stable_score"] is None
    assert again["finetune_loss"] == row["finetune_loss"]


def test_result_fields_of_another_type_are_null(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("pretrain")[0]
    wrong = {"loss": "low", "tokens": 1.5, "steps": 10**30, "images": True, "finished_at": "today", "versions": 3}
    write_json(written.run(key).result, result_of(written, key) | wrong)
    row = next(row for row in rows(written, "jobs") if row["key"] == key)
    assert row["state"] == "done"
    columns = ("loss", "tokens", "steps", "images", "finished_at", "versions")
    assert [row[name] for name in columns] == [None] * len(columns)
    assert rows(written)[0]["text_tokens"] is None


def test_two_sweeps_share_runs_and_each_has_its_own_tables(tmp_path: Path) -> None:
    toy(tmp_path, SMALL)
    other = plan(Store(tmp_path), Grid(name="other", branches=(0, 50, 100), shares=(0.5, 0.75), epochs=(2,)))
    found = rows(other)
    assert [row["state"] for row in found] == ["done", "ready"] * 3
    shared = next(row for row in found if row["state"] == "done")
    # in this sweep the image-text run serves one model, so all of it is that model's own
    assert shared["gpu_hours_own"] == pytest.approx(
        4 * (SECONDS["pretrain"] + SECONDS["finetune"] + SECONDS["evaluate"]) / 3600
    )
    assert {row["sweep"] for row in found} == {"other"}


def test_pandas_reads_every_table(done: Written) -> None:
    results = pd.read_parquet(parquet(done, "results"))
    assert results.pivot_table(index="branch", columns="image_share", values="vision_stable_score").shape == (3, 2)
    assert results["finished_at"].iloc[0] == pd.Timestamp(START + SECONDS["evaluate"], unit="s", tz="UTC")
    jobs = pd.read_parquet(parquet(done, "jobs"))
    assert list(jobs["cells"].iloc[-1]) == [done.cells[-1]["name"]]
    assert dict(jobs["versions"].iloc[0])["torch"] == "2.13.0"
    joined = pd.read_parquet(parquet(done, "metrics")).merge(jobs[["key", "phase"]], on="key")
    assert set(joined["phase"]) == {"trunk", "pretrain", "finetune", "evaluate"}


def test_duckdb_reads_every_table(done: Written) -> None:
    connection = database(done)
    tasks = connection.sql(
        "select s.task, count(*), avg(s.score - s.chance) from (select unnest(scores) as s from results) "
        "group by all order by all"
    ).fetchall()
    assert [(task, count) for task, count, _ in tasks] == [
        (name, 12) for name in ("cloze", "count_val", "shapes_heldout", "shapes_val", "text_loss")
    ]
    assert connection.sql("select distinct versions['torch'] from jobs").fetchall() == [("2.13.0",)]
    assert connection.sql("select max(finished_at) > min(started_at) from jobs").fetchall() == [(True,)]
    losses = connection.sql(
        "select r.epochs, m.value from results r join metrics m on m.key = r.key where m.name = 'loss' and m.step = 30"
    ).fetchall()
    assert len(losses) == 12


def test_a_cell_that_names_a_missing_job_is_an_error(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    written.cells[0]["pretrain"] = "f" * 16
    write_manifest(written)
    with pytest.raises(ManifestError, match="names job 'ffffffffffffffff' and does not hold it"):
        written_tables(written)


def test_a_pretrain_job_of_another_engine_leaves_model_size_and_tokens_null(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    key = written.cells[0]["pretrain"]
    written.jobs[key]["config"] = {"command": ["train"]}
    write_manifest(written)
    finish(written)
    found = rows(written)
    assert (found[0]["parameters"], found[0]["text_tokens"]) == (None, 122_880 - 2_880)
    written.jobs[written.phase("trunk")[0]]["config"] = {}
    write_manifest(written)
    assert {row["text_tokens"] for row in rows(written) if row["branch"] == 50} == {None}
