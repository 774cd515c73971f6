"""Results that an earlier report read are not read again, unless anything of them has changed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job
from jobs.reconcile.snapshot import load_snapshot
from jobs.reconcile.state import JobState
from jobs.store.checked_results import LEAST_NEW, CheckedResults
from jobs.store.paths import Store, write_json
from tests.jobs import toy

OLD = 1_600_000_000


@pytest.fixture
def jobs(store: Store) -> list[Job]:
    """So many that a file of them is kept; each is done, with a checkpoint of three files."""
    found = [toy.toy_job(f"k{number}") for number in range(LEAST_NEW)]
    for job in found:
        run = store.locate_run(job.stage, job.key)
        folder = run.checkpoints / "step-3"
        folder.mkdir(parents=True)
        for name in "abc":
            (folder / name).write_text("12345")
        os.utime(folder, (OLD, OLD))
        files = {f"checkpoints/step-3/{name}": 5 for name in "abc"}
        write_json(run.result, {"format": 1, "key": job.key, "finished_at": 9.5, "files": files, "scores": {}})
    return found


def read_states(jobs: list[Job], store: Store) -> dict[str, JobState]:
    snapshot = load_snapshot(jobs, store, "toy", trusts_checked=True)
    assert all(run.finished_at == 9.5 for run in snapshot.runs.values() if run.done)
    return {key: status.state for key, status in snapshot.statuses.items()}


def count_operations(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Files that are opened and measured from now on."""
    counts = {"open": 0, "stat": 0}
    real_open, real_stat = os.open, os.stat

    def counted_open(*given: Any, **options: Any) -> Any:
        counts["open"] += str(given[0]).endswith("result.json")
        return real_open(*given, **options)

    def counted_stat(*given: Any, **options: Any) -> Any:
        counts["stat"] += 1
        return real_stat(*given, **options)

    monkeypatch.setattr(os, "open", counted_open)
    monkeypatch.setattr(os, "stat", counted_stat)
    return counts


def test_a_second_report_opens_no_result_and_measures_two_things_a_job(
    jobs: list[Job], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_operations(monkeypatch)
    assert set(read_states(jobs, store).values()) == {JobState.DONE}
    assert counts["open"] == LEAST_NEW
    counts.update(open=0, stat=0)
    assert set(read_states(jobs, store).values()) == {JobState.DONE}
    assert counts["open"] == 0
    assert counts["stat"] <= 2 * LEAST_NEW + 10


def test_what_has_changed_since_is_read_again(jobs: list[Job], store: Store) -> None:
    read_states(jobs, store)
    aside, damaged, gone, replaced = (store.locate_run(job.stage, job.key) for job in jobs[:4])
    aside.result.rename(aside.damaged_result)
    (damaged.checkpoints / "step-3" / "b").unlink()
    damaged.result.touch()
    (gone.checkpoints / "step-3" / "a").unlink()
    write_json(replaced.result, {"format": 1, "key": "other", "files": {}})
    found = read_states(jobs, store)
    assert [found[job.key] for job in jobs[:4]] == [JobState.READY] * 4
    assert {found[job.key] for job in jobs[4:]} == {JobState.DONE}


def test_a_round_reads_every_result_itself(jobs: list[Job], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read_states(jobs, store)
    counts = count_operations(monkeypatch)
    load_snapshot(jobs, store, "toy")
    assert counts["open"] == LEAST_NEW


def test_a_file_that_is_damaged_foreign_or_not_to_be_written_costs_time_alone(jobs: list[Job], store: Store) -> None:
    path = store.locate_sweep("toy").checked_results
    read_states(jobs, store)
    whole = path.read_text()
    for text in ("", "checked-results 2\n", whole[:-7], whole.replace("\x1f", " "), "\0" * 9):
        path.write_text(text)
        assert set(read_states(jobs, store).values()) == {JobState.DONE}
    path.unlink()
    path.mkdir()
    assert set(read_states(jobs, store).values()) == {JobState.DONE}


def test_a_folder_that_changed_a_moment_ago_is_not_noted(jobs: list[Job], store: Store, tmp_path: Path) -> None:
    run = store.locate_run(jobs[0].stage, jobs[0].key)
    (run.checkpoints / "step-3").touch()
    checked = CheckedResults(tmp_path / "checked")
    for job in jobs:
        checked.check(str(store.locate_run(job.stage, job.key).root), job.key)
    checked.check(str(store.locate_run("x", "none").root), "none")
    checked.save()
    assert not (tmp_path / "checked").exists()
    assert json.loads(run.result.read_text())["key"] == jobs[0].key
