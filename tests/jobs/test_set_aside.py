"""What is taken out of a run, and who notices."""

import json
from pathlib import Path

import pytest

from jobs.claims.claims import ClaimOwner, create_claim
from jobs.set_aside import (
    TrashItem,
    TrashRecord,
    can_be_at_work,
    has_set_aside_input,
    mark_item,
    measure_tree,
    move_item,
    needs_optimizer,
    read_trash,
    remove_trash,
    restore_inputs,
    restore_run,
)
from jobs.store.flock import acquire_lock
from jobs.store.paths import RunPaths, Store, write_json
from jobs.store.results import SetAsidePath, check_result, set_result_aside
from tests.jobs.toy import toy_job

STEP = "checkpoints/step-00000001"
OPTIMIZER = f"{STEP}/optimizer.safetensors"


@pytest.fixture
def run(store: Store) -> RunPaths:
    """A finished run of three files."""
    run = store.locate_run("pretrain", "k")
    folder = run.root / STEP
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.safetensors", "record.json"):
        (folder / name).write_text(name)
    files = {f"{STEP}/{path.name}": path.stat().st_size for path in folder.iterdir()}
    write_json(run.result, {"format": 1, "key": "k", "files": files, "checkpoint": STEP})
    return run


def item(*names: str) -> TrashItem:
    return TrashItem(stage="pretrain", key="k", paths={name: SetAsidePath(trash_id="t1", bytes=1) for name in names})


@pytest.mark.parametrize("name", [STEP, OPTIMIZER])
def test_a_job_is_done_without_what_was_set_aside(store: Store, run: RunPaths, name: str) -> None:
    mark_item(store, item(name))
    assert move_item(store, item(name)).paths.keys() == {name}
    assert not (run.root / name).exists()
    assert check_result(run, "k").valid
    assert restore_run(store, run) == {}
    assert (run.root / name).exists()
    assert not run.set_aside.exists()
    assert check_result(run, "k").valid


def test_what_was_not_set_aside_is_still_missed(store: Store, run: RunPaths) -> None:
    mark_item(store, item(OPTIMIZER))
    move_item(store, item(OPTIMIZER))
    (run.root / STEP / "model.safetensors").unlink()
    assert check_result(run, "k").problem.endswith("model.safetensors is missing")


def test_a_mark_of_another_result_excuses_nothing(store: Store, run: RunPaths) -> None:
    mark_item(store, item(OPTIMIZER))
    move_item(store, item(OPTIMIZER))
    write_json(run.result, json.loads(run.result.read_text()) | {"again": 1})
    assert "optimizer.safetensors is missing" in check_result(run, "k").problem


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 1}', '{"format": 1, "result": "x", "paths": {"../../evil": {"id": "t1"}}}',
     '{"format": 1, "result": "x", "paths": {"/etc/passwd": {"id": "t1"}}}',
     '{"format": 1, "result": "x", "paths": {"a": {"id": "../.."}}}'],
)  # fmt: skip
def test_a_mark_that_is_damaged_or_leads_elsewhere_is_told_and_moves_nothing(
    store: Store, run: RunPaths, content: str
) -> None:
    (run.root / OPTIMIZER).unlink()
    run.set_aside.write_text(content)
    assert "set-aside.json" in check_result(run, "k").problem
    with pytest.raises(ValueError, match=r"set-aside\.json"):
        restore_run(store, run)
    assert has_set_aside_input(run, "finetune", {})


def test_nothing_is_taken_from_a_run_that_an_attempt_owns(store: Store, run: RunPaths) -> None:
    mark_item(store, item(STEP))
    assert acquire_lock(run.lock) is not None
    assert move_item(store, item(STEP)).paths == {}
    assert (run.root / STEP).exists()


def test_nothing_is_taken_from_a_run_whose_result_is_another_by_now(store: Store, run: RunPaths) -> None:
    mark_item(store, item(STEP))
    write_json(run.result, json.loads(run.result.read_text()) | {"again": 1})
    assert move_item(store, item(STEP)).paths == {}
    restore_run(store, run)
    assert not run.set_aside.exists()


def test_what_was_removed_is_gone_and_the_mark_says_so(store: Store, run: RunPaths) -> None:
    TrashRecord(id="t1", sweep="s", by="ann", set_aside_at=1.0, items=(item(STEP),)).write(store)
    mark_item(store, item(STEP))
    move_item(store, item(STEP))
    assert [record.id for record in read_trash(store)] == ["t1"]
    remove_trash(store, "t1")
    assert read_trash(store) == []
    assert restore_run(store, run).keys() == {STEP}
    assert check_result(run, "k").valid
    assert set_result_aside(run), "its job is to run again"
    assert not run.set_aside.exists()


def test_readers_are_held_up_by_what_they_read_alone(store: Store, run: RunPaths) -> None:
    mark_item(store, item(OPTIMIZER))
    assert not has_set_aside_input(run, "finetune", {})
    assert not has_set_aside_input(run, "pretrain", {"optimizer_state": "fresh"})
    assert has_set_aside_input(run, "pretrain", {})
    assert has_set_aside_input(run, "stage_of_another_package", {})
    mark_item(store, item(STEP))
    assert has_set_aside_input(run, "finetune", {})
    assert needs_optimizer("pretrain", {"optimizer_state": "carried"})


def test_an_older_checkpoint_is_read_by_nobody(store: Store, run: RunPaths) -> None:
    older = SetAsidePath(trash_id="t1", bytes=1, read=False)
    mark_item(store, TrashItem(stage="pretrain", key="k", paths={"checkpoints/step-00000000": older}))
    assert not has_set_aside_input(run, "pretrain", {})
    child = toy_job("child", "k")
    assert restore_inputs(store, child, [toy_job("k")]) == {"k"}
    assert check_result(run, "k").valid, "it is gone for good, and nothing runs again for it"


def test_a_run_is_at_work_by_its_lock_and_by_its_claim(run: RunPaths) -> None:
    assert not can_be_at_work(run)
    elsewhere = ClaimOwner(host="far", boot_id="other", pid=1, attempt="a1")
    claim = create_claim(run.claims, elsewhere, after=None)
    assert claim is not None
    assert can_be_at_work(run), "on another machine, and no end is seen"
    claim.release()
    assert not can_be_at_work(run)
    assert acquire_lock(run.lock) is not None
    assert can_be_at_work(run)


def test_a_file_with_a_second_name_frees_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("12345")
    assert measure_tree(tmp_path / "one") == (5, 2)
    (tmp_path / "other").hardlink_to(tmp_path / "one" / "file")
    assert measure_tree(tmp_path / "one") == (0, 2)
    (tmp_path / "one" / "link").symlink_to(tmp_path)
    assert measure_tree(tmp_path / "one")[1] == 3


def test_a_result_that_is_gone_already_is_set_aside_all_the_same(run: RunPaths) -> None:
    run.result.unlink()
    assert set_result_aside(run)


@pytest.mark.parametrize("name", ["../../../elsewhere", "/elsewhere", "checkpoints/../..", "a\x1b[2J", ""])
def test_a_record_of_the_trash_that_leads_elsewhere_is_passed_over(store: Store, run: RunPaths, name: str) -> None:
    record = TrashRecord(id="t1", sweep="toy", by="ann", set_aside_at=1.0, items=(item(name),))
    record.write(store)
    assert read_trash(store) == []
