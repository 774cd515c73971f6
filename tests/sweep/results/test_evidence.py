"""Hours of the tables from the cluster's accounting: every execution counts, once, and against the plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.reconcile.accounting import AccountingRecord
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.results.evidence import HoursSource, compute_job_hours, merge_sources
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.jobs.reconcile.executions import ending, outcome
from tests.jobs.toy import toy_job
from tests.sweep.results.accounted import known_to_slurm, row_of
from tests.sweep.synthetic_store import SECONDS, START, Grid, Written, plan, toy, write_attempt

SMALL = Grid(branches=(0, 50), shares=(0.5,), epochs=(1, 2))


H100 = 2.9


Endings = Mapping[str, Sequence[AccountingRecord]]


def tables(written: Written, endings: Endings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of results.parquet and jobs.parquet."""
    found = write_tables(open_sweep(written.store.root, written.sweep), endings)
    return found.results.to_pylist(), found.jobs.to_pylist()


def job_row(written: Written, key: str, *endings: AccountingRecord) -> dict[str, Any]:
    return next(row for row in tables(written, {key: endings})[1] if row["key"] == key)


def test_requeues_failures_and_preemptions_count_to_the_second(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    known_to_slurm(written, key, "a1", restart=2)
    write_attempt(
        written, key, "a0", START - 5_000, 900, failure=FailureClass.PREEMPTED, checkpoint_step=5,
        checkpoint_at=START - 4_600,
    )  # fmt: skip
    known_to_slurm(written, key, "a0")
    rows = [
        row_of(key, "PREEMPTED", START - 5_003, 905, failure=FailureClass.PREEMPTED),
        row_of(key, "NODE_FAIL", START - 3_000, 31, failure=FailureClass.NODE_FAULT),
        row_of(key, "COMPLETED", START - 2, int(SECONDS["finetune"]) + 3),
    ]
    row = job_row(written, key, *rows)
    used, wasted = (round(3600 * row[f"{kind}_gpu_hours"], 6) for kind in ("used", "wasted"))
    # nothing is known of a checkpoint in the attempt that finished, so all of its row is used
    assert used + wasted == sum(each.gpu_seconds for each in rows)
    assert wasted == 4 * (905 + 31)  # the attempt that finished began without the first one's checkpoint
    assert (row["attempts"], row["hours_source"], row["overstated_seconds"]) == (3, "slurm", 0)
    assert (row["failure"], row["node"]) == (None, "node7")


def test_attempts_without_a_row_make_the_source_mixed(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    row = job_row(written, key, row_of(key, "NODE_FAIL", START - 3_000, 30, failure=FailureClass.NODE_FAULT))
    assert row["hours_source"] == "mixed"
    assert row["used_gpu_hours"] == pytest.approx(4 * SECONDS["finetune"] / 3600)
    assert row["wasted_gpu_hours"] == pytest.approx(4 * 30 / 3600)
    assert row["wasted_a100_hours"] == pytest.approx(4 * 30 / 3600 * H100)  # the job's GPU type


def test_what_failed_before_an_attempt_began_shows_in_the_table(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    key = written.phase("trunk")[0]
    row = job_row(written, key, row_of(key, "FAILED", START, 4, exit_code=2, gpus=0))
    assert (row["state"], row["failure"], row["attempts"]) == ("interrupted", "unknown", 1)
    assert row["failure_message"] == "ended with code 2 before the attempt began"
    assert row["wasted_gpu_hours"] == pytest.approx(4 * 4 / 3600)  # as many GPUs as the job asks for
    assert (row["node"], row["hours_source"]) == ("n1", "slurm")


def test_a_late_end_in_the_accounting_is_flagged_and_its_hours_stay(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    known_to_slurm(written, key, "a1")
    row = job_row(written, key, row_of(key, "COMPLETED", START, int(SECONDS["finetune"]) + 112))
    assert row["overstated_seconds"] == 112
    assert row["used_gpu_hours"] == pytest.approx(4 * (SECONDS["finetune"] + 112) / 3600)


def test_a_finished_job_does_not_fail_by_what_came_after(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    key = written.phase("finetune")[0]
    written.run(key).locate_attempt("a1").exit.unlink()
    row = job_row(written, key, row_of(key, "NODE_FAIL", START + 9_000, 3, failure=FailureClass.NODE_FAULT))
    assert (row["state"], row["failure"], row["attempts"]) == ("done", None, 2)
    assert row["used_gpu_hours"] == pytest.approx(4 * SECONDS["finetune"] / 3600)


def test_jobs_that_have_not_begun_have_no_source(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    assert {(row["hours_source"], row["overstated_seconds"]) for row in tables(written, {})[1]} == {(None, None)}
    assert {row["model"] for row in tables(written, {})[1]} == {"2m"}


def test_the_trunk_is_charged_once_also_where_it_was_requeued(tmp_path: Path) -> None:
    written = toy(tmp_path, SMALL)
    trunk = written.phase("trunk")[0]
    lost = row_of(trunk, "NODE_FAIL", START - 9_000, 600, failure=FailureClass.NODE_FAULT)
    models, jobs = tables(written, {trunk: [lost]})
    by_jobs = sum(row["used_gpu_hours"] + row["wasted_gpu_hours"] for row in jobs)
    assert sum(row["gpu_hours_own"] + row["gpu_hours_shared"] for row in models) == pytest.approx(by_jobs)
    shared = {row["branch"]: row["gpu_hours_shared"] for row in models}
    assert shared[50] - shared[0] == pytest.approx(4 * (SECONDS["trunk"] + 600) / 2 / 3600)


def test_planned_hours_of_models_add_up_to_the_plan(tmp_path: Path) -> None:
    models, jobs = tables(plan(Store(tmp_path), SMALL), {})
    planned = sum(row["planned_a100_hours_own"] + row["planned_a100_hours_shared"] for row in models)
    assert planned == pytest.approx(sum(row["planned_a100_hours"] for row in jobs))
    assert {row["planned_a100_hours_own"] for row in models} == {2.0}


def test_the_gpu_type_of_the_job_serves_where_the_attempt_has_none() -> None:
    job = toy_job("k", resources=Resources(gpus_per_node=4, gpu_type="h100"))
    found = compute_job_hours(job, [outcome()])
    assert found.used.gpu_hours == pytest.approx(240 / 3600)
    assert found.used.a100_hours == pytest.approx(H100 * 240 / 3600)


@pytest.mark.parametrize(
    ("kinds", "gpus", "factor"),
    [
        ("", 4, 1),
        ("a100=4", 4, 1),
        ("a100_1g.5gb=1", 1, 1 / 7),
        ("a100=2,nvidia_h100=2", 4, (1 + 2.9) / 2),
        ("a100_1g.5gb=1,=1", 2, (1 + 1 / 7) / 2),
        ("mig_24gb=1", 1, None),
        ("shard=1", 0, None),
    ],
)
def test_hours_count_as_the_kind_that_was_allocated(kinds: str, gpus: int, factor: float | None) -> None:
    job = toy_job("k", resources=Resources(gpus_per_node=4, gpu_type="a100"))
    row = ending(gpus=gpus, gpu_kinds=kinds)
    found = compute_job_hours(job, [outcome()], [row])
    hours = (gpus or 4) * 60 / 3600
    assert found.total.gpu_hours == pytest.approx(hours)
    assert found.total.a100_hours == (None if factor is None else pytest.approx(hours * factor))
    assert set(found.gpu_kinds.split(",")) == set(kinds.split(","))


def test_what_the_user_s_own_options_ask_for_counts_where_slurm_tells_no_types() -> None:
    asked = Resources(gpus_per_node=1, gpu_type="a100", options={"gres": "gpu:a100_1g.5gb:1"})
    found = compute_job_hours(toy_job("k", resources=asked), [outcome()], [ending(gpus=1)])
    assert found.total.a100_hours == pytest.approx(60 / 3600 / 7)


def test_the_source_is_one_word() -> None:
    assert [merge_sources(kinds) for kinds in (set(), {True}, {False}, {True, False})] == [
        None, HoursSource.SLURM, HoursSource.ATTEMPTS, HoursSource.MIXED,
    ]  # fmt: skip


def test_the_code_revision_reaches_both_tables(tmp_path: Path) -> None:
    models, jobs = tables(toy(tmp_path, SMALL), {})
    assert {row["code_revision"] for row in [*models, *jobs]} == {"abc123"}
