"""A few random histories (`python -m tests.sweep.disk.histories`), and every step at which `sweep gc` may die."""

import random
import shutil
from pathlib import Path

import pytest

from jobs.set_aside import read_trash
from jobs.store.paths import Store
from sweep.disk.collect import remove, restore, set_aside
from sweep.stored_sweep import open_sweep
from tests.sweep.disk.histories import (
    FINAL,
    Branch,
    Experiment,
    History,
    Tally,
    count_executions,
    is_done,
    list_removed,
    run_jobs,
    run_killed,
)


@pytest.mark.parametrize("seed", ["ci-1", "ci-2", "ci-3"])
def test_every_plan_completes_after_a_random_history(tmp_path: Path, seed: str) -> None:
    tally = Tally()
    History(tmp_path / "store", seed, tally).run()
    assert tally.histories == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk of two segments with a cell, all done; its file keeps nothing."""
    root = tmp_path_factory.mktemp("finished") / "store"
    experiment = small()
    experiment.store(Store(root))
    run_jobs(Store(root), experiment, None)
    return root


def small() -> Experiment:
    branch = Branch(name="c0", segment=1, carried=True, epochs=(1,))
    keep = {"trunk": "none", "pretrain": "none", "finetune": "none"}
    return Experiment(name="one", trunk="a", branches=[branch], keep=keep)


def check_whole(store: Store) -> None:
    """Every job is done, and whatever is not in its place is in the trash."""
    assert all(is_done(store, job) for job in small().build_manifest().jobs)
    assert list_removed(store) == set()


def test_setting_aside_may_be_killed_at_every_step(finished: Path, tmp_path: Path) -> None:
    number, killed = 1, True
    while killed:
        store = Store(tmp_path / f"killed-{number}")
        shutil.copytree(finished, store.root)
        stored = open_sweep(store.root, "one")
        killed = run_killed(number, lambda: set_aside(stored, unplanned=False))  # noqa: B023
        check_whole(store)
        for record in read_trash(store):
            if number % 2:
                restore(stored, record.id)
            else:
                remove(stored, record.id)
        if number % 2:
            assert not list(store.runs.rglob("set-aside.json")) or not read_trash(store)
        set_aside(stored, unplanned=False)  # whatever was left half is done now
        left = {path.parent.parent.name for path in store.runs.glob(f"*/*/{FINAL}")}
        assert left == set(), number
        assert all(is_done(store, job) for job in small().build_manifest().jobs)
        shutil.rmtree(store.root)
        number += 1
    assert number > 20


@pytest.mark.parametrize("action", [restore, remove])
def test_bringing_back_and_removing_may_be_killed_at_every_step(finished: Path, tmp_path: Path, action: object) -> None:
    aside = Store(tmp_path / "aside")
    shutil.copytree(finished, aside.root)
    set_aside(open_sweep(aside.root, "one"), unplanned=False)
    number, killed = 1, True
    while killed:
        store = Store(tmp_path / f"killed-{number}")
        shutil.copytree(aside.root, store.root)
        stored, (record,) = open_sweep(store.root, "one"), read_trash(store)
        killed = run_killed(number, lambda: action(stored, record.id))  # type: ignore[operator]  # noqa: B023
        assert all(is_done(store, job) for job in small().build_manifest().jobs), number
        for left in read_trash(store):
            action(stored, left.id)  # type: ignore[operator]
        if action is restore:
            assert len(list(store.runs.glob(f"*/*/{FINAL}"))) == 3, number
            assert not list(store.runs.rglob("set-aside.json"))
        else:
            set_aside(stored, unplanned=False)  # removes what the kill left in the trash
            assert [path.name for path in store.trash.iterdir()] == []
        shutil.rmtree(store.root)
        number += 1
    assert number > 5


def test_a_job_whose_parent_was_removed_has_it_made_again(finished: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(finished, store.root)
    stored = open_sweep(store.root, "one")
    remove(stored, set_aside(stored, unplanned=False).id)
    later = small()
    later.branches.append(Branch(name="c1", segment=1, carried=True, epochs=(1,)))
    later.store(store)
    run_jobs(store, later, None)
    assert all(is_done(store, job) for job in later.build_manifest().jobs)
    assert count_executions(store, "a-t1", "pretrain") == 2
    assert count_executions(store, "a-c0-p", "pretrain") == 1


def test_a_trash_that_was_removed_by_hand_holds_up_nobody(finished: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(finished, store.root)
    set_aside(open_sweep(store.root, "one"), unplanned=False)
    shutil.rmtree(store.trash)
    later = small()
    later.branches.append(Branch(name="c1", segment=1, carried=True, epochs=(1,)))
    later.store(store)
    run_jobs(store, later, None)
    assert all(is_done(store, job) for job in later.build_manifest().jobs)
    assert count_executions(store, "a-t1", "pretrain") == 2


def test_a_job_whose_parent_is_in_the_trash_has_it_brought_back(finished: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(finished, store.root)
    set_aside(open_sweep(store.root, "one"), unplanned=False)
    later = small()
    later.branches.append(Branch(name="c1", segment=1, carried=True, epochs=(1,)))
    later.store(store)
    run_jobs(store, later, None)
    assert all(is_done(store, job) for job in later.build_manifest().jobs)
    assert count_executions(store, "a-t1", "pretrain") == 1


def test_histories_are_equal_for_equal_seeds(tmp_path: Path) -> None:
    one, other = (History(tmp_path / name, "7", Tally()).experiments for name in ("one", "other"))
    assert one == other
    assert random.Random("7").random() == random.Random("7").random()


def test_a_sibling_waits_while_its_parent_is_made_again_for_another(finished: Path, tmp_path: Path) -> None:
    """The one carries the optimizer's state on, which is gone; the other reads weights that were there when it was
    queued."""
    store = Store(tmp_path / "store")
    shutil.copytree(finished, store.root)
    kept = small()
    kept.keep = {}
    kept.store(store)
    stored = open_sweep(store.root, "one")
    remove(stored, set_aside(stored, unplanned=False).id)
    kept.branches.append(Branch(name="c1", segment=1, carried=True, epochs=(1,)))
    kept.branches.append(Branch(name="c2", segment=1, carried=False, epochs=(1,)))
    kept.store(store)
    run_jobs(store, kept, None)
    assert all(is_done(store, job) for job in kept.build_manifest().jobs)
    assert count_executions(store, "a-t1", "pretrain") == 2
    assert not list(store.runs.rglob("error.json")), "nobody began on a parent without a result"
