"""`sweep gc` as a user meets it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.set_aside import read_trash
from jobs.store.paths import Store
from sweep.cli import main
from sweep.disk.room import describe_shortage, measure_room
from sweep.disk.survey import load_survey, read_keep
from sweep.errors import StoreError
from sweep.stored_sweep import open_sweep
from tests.sweep.disk.histories import Branch, Experiment, run_jobs

TRASH_AGE_S = 3 * 86_400


def experiment(**keep: str) -> Experiment:
    branch = Branch(name="c0", segment=1, carried=True, epochs=(1,))
    return Experiment(name="one", trunk="a", branches=[branch], keep=dict(keep))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "store"
    experiment().store(Store(root))
    run_jobs(Store(root), experiment(), None)
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    shutil.copytree(finished, tmp_path / "store")
    return Store(tmp_path / "store")


def gc(store: Store, *words: str) -> int:
    return main(["gc", "one", *words, "--store", str(store.root)])


def read_json(store: Store, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert gc(store, *words, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_without_an_action_nothing_changes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(store.root.rglob("*"))
    assert gc(store) == 0
    told = capsys.readouterr()
    assert "1 run may go" in told.out
    assert "--set-aside" in told.err
    assert sorted(store.root.rglob("*")) == before


def test_what_it_says_is_what_it_does_from_table_to_trash(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    said = read_json(store, capsys)
    done = read_json(store, capsys, "--set-aside")
    goes = said["goes"]
    assert (done["bytes"], done["inodes"]) == (goes["bytes"], goes["inodes"])
    assert done["items"] == said["items"]
    (trash,) = read_json(store, capsys)["trash"]
    assert (trash["bytes"], trash["by"] != "") == (goes["bytes"], True)
    removed = read_json(store, capsys, "--remove", trash["id"])
    assert removed["bytes"] == goes["bytes"]
    assert read_json(store, capsys)["trash"] == []


def test_restoring_leaves_no_trace(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path for path in store.runs.rglob("*") if path.name != "lock"}
    assert gc(store, "--set-aside") == 0
    (folder,) = store.trash.iterdir()
    assert gc(store, "--restore", folder.name) == 0
    assert {path for path in store.runs.rglob("*") if path.name != "lock"} == before
    assert list(store.trash.iterdir()) == []
    assert gc(store, "--restore", folder.name) == 2
    assert "has no" in capsys.readouterr().err


def test_an_age_removes_what_is_older(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc(store, "--set-aside") == 0
    assert gc(store, "--remove-older-than", "3") == 0
    (folder,) = store.trash.iterdir()
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"set_aside_at": record["set_aside_at"] - TRASH_AGE_S - 1}))
    capsys.readouterr()
    assert gc(store, "--remove-older-than", "3") == 0
    assert "removed" in capsys.readouterr().out
    assert list(store.trash.iterdir()) == []


def test_two_actions_at_once_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gc(store, "--set-aside", "--restore", "x")
    assert "not allowed with" in capsys.readouterr().err


def test_runs_of_no_plan_are_listed_apart_and_freed_when_asked(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store.runs / "finetune" / "a-c0-p-f1", store.runs / "finetune" / "left")
    said = read_json(store, capsys)
    assert said["unplanned"]["runs"] == ["finetune/left"]
    assert all(item["key"] != "left" for item in said["items"])
    assert gc(store, "--unplanned", "--set-aside") == 0
    assert not list((store.runs / "finetune" / "left" / "checkpoints").iterdir())
    assert (store.runs / "finetune" / "left" / "result.json").exists()


def test_a_job_whose_weights_went_is_done_and_not_sent_again(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    experiment(trunk="none", pretrain="none", finetune="none").store(store)
    assert gc(store, "--set-aside") == 0
    assert not list(store.runs.rglob("model.safetensors"))
    capsys.readouterr()
    assert main(["submit", "one", "--dry-run", "--json", "--store", str(store.root)]) == 0
    assert json.loads(capsys.readouterr().out)["actions"] == []


def test_a_plan_that_cannot_be_read_stops_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    other = store.locate_sweep("other")
    other.root.mkdir()
    other.manifest.write_text("damaged\n")
    assert gc(store, "--set-aside") == 1
    assert "is damaged" in capsys.readouterr().err
    assert not store.trash.exists()


def test_a_damaged_keep_is_told_with_its_place(store: Store) -> None:
    store.locate_sweep("one").source.write_text("name: one\nkeep:\n  trunk: most\n")
    with pytest.raises(StoreError, match=r"keep\.trunk"):
        read_keep(store, "one")


def test_a_full_disk_is_told_with_what_would_be_freed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    stored = open_sweep(store.root, "one")
    jobs = [replace(job, estimate=replace(job.estimate, checkpoint_bytes=40)) for job in stored.manifest.jobs]
    assert describe_shortage(stored, jobs) == ""
    usage = shutil.disk_usage(store.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=100))
    room = measure_room(store.root, jobs)
    assert room is not None
    assert (room.fitting, room.jobs, room.needed) == (2, 4, 160)
    line = describe_shortage(stored, jobs)
    assert "full after about 2 of 4 jobs: 100 B free, 160 B to come" in line
    assert "`sweep gc one` would free" in line
    assert gc(store, "--set-aside") == 0
    assert "are set aside and go with" in describe_shortage(stored, jobs)


def test_another_persons_submission_is_waited_for(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.claims.submit_lock import hold_submit_lock
    from sweep.disk import collect

    before, collect.LOCK_SECONDS = collect.LOCK_SECONDS, 0.0
    try:
        with hold_submit_lock(store.submitters, wait_seconds=0.0):
            assert gc(store, "--set-aside") == 1
    finally:
        collect.LOCK_SECONDS = before
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert not store.trash.exists()


def test_a_copy_of_a_stage_s_folder_speaks_for_no_run_of_the_plan(store: Store) -> None:
    """The copy has a result, and the run itself is to be done again: its parent's weights are needed."""
    stored = open_sweep(store.root, "one")
    job = next(job for job in stored.manifest.jobs if job.stage == "finetune")
    shutil.copytree(store.runs / "finetune", store.runs / "finetune.bak")
    store.locate_run(job.stage, job.key).result.unlink()
    runs = load_survey(stored).runs
    assert not runs[job.key].done
    assert runs[job.key].stage == "finetune"


def test_names_that_no_mark_could_hold_stay_where_they_are(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = next(job for job in open_sweep(store.root, "one").manifest.jobs if job.stage == "pretrain")
    run = store.locate_run(job.stage, job.key)
    odd = run.checkpoints / ".shard 3~.tmp"
    odd.write_text("of another program")
    (store.runs / "pretrain" / ".old").mkdir()
    (store.runs / "pretrain" / ".old" / "file").write_text("of a person")
    assert gc(store, "--set-aside", "--unplanned") == 0
    assert odd.exists()
    assert (store.runs / "pretrain" / ".old" / "file").exists()
    capsys.readouterr()
    (record,) = read_trash(store)
    assert gc(store, "--restore", record.id) == 0


def test_before_anything_has_run_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = Store(tmp_path / "new")
    experiment().store(new)
    assert gc(new) == 0
    assert capsys.readouterr().out.startswith("no job has left a file yet\n\nnothing may go: ")
