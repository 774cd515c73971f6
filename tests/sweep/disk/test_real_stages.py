"""`sweep gc` on checkpoints of the real stages: what it takes, and that what it leaves serves as before."""

import shutil
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.store.paths import Store
from jobs.store.results import check_result
from stages.checkpoint.files import read_result_checkpoint
from stages.errors import ConfigError, DamagedInputError
from stages.job_file import JobFile
from sweep.cli import main
from sweep.plan.manifest import Cell, FinetuneChain, Manifest, write_manifest
from tests.stages.training.training_case import (
    World,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    run_here,
    same_bits,
    text_config,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A trunk and an image-text run that goes on from it, both with their optimizer's state, planned and done."""
    world = make_world(tmp_path_factory.mktemp("world"))
    trunk = world.run("trunk1", "pretrain", text_config(4))
    world.run("cell1", "pretrain", image_config(4), [trunk])
    return world


@pytest.fixture
def world(trained: World, tmp_path: Path) -> World:
    shutil.copytree(trained.root, tmp_path / "copy")
    return World(tmp_path / "copy")


def plan(world: World, *, more: tuple[Job, ...] = ()) -> Store:
    jobs = (
        planned("trunk1", "trunk"),
        planned("cell1", "pretrain", "trunk1"),
        planned("tuned1", "finetune", "cell1"),
        planned("asked1", "evaluate", "tuned1"),
        *more,
    )
    chain = FinetuneChain(epochs=2, finetune="tuned1", evaluate="asked1")
    cells = (Cell(name="c", axes={}, pretrain="cell1", chains=(chain,)),)
    store = Store(world.root)
    write_manifest(
        store.locate_sweep("real").manifest,
        Manifest(sweep="real", backend="local", data={}, cells=cells, jobs=jobs),
    )
    return store


def planned(key: str, phase: str, *parents: str) -> Job:
    stage = "pretrain" if phase == "trunk" else phase
    cells = () if phase == "trunk" else ("c",)
    return Job(key=key, stage=stage, version=1, phase=phase, parents=parents, config={}, cells=cells)


def job_of(world: World, key: str) -> JobFile:
    from stages.job_file import read_job

    return read_job(world.root / "runs" / "pretrain" / key / "job.json")


def optimizers(world: World) -> list[str]:
    return sorted(path.parts[-4] for path in (world.root / "runs").rglob("optimizer.safetensors"))


def test_a_fine_tune_has_the_same_bits_after_the_optimizer_state_went(world: World) -> None:
    store = plan(world)
    before = world.run("before", "finetune", finetune_config(), [job_of(world, "cell1")])
    assert optimizers(world) == ["cell1", "trunk1"]
    shutil.rmtree(before.run.with_name("elsewhere"), ignore_errors=True)
    assert main(["gc", "real", "--set-aside", "--store", str(store.root)]) == 0
    (trash_id,) = [path.name for path in store.trash.iterdir()]
    assert main(["gc", "real", "--remove", trash_id, "--store", str(store.root)]) == 0
    assert optimizers(world) == []
    for key in ("trunk1", "cell1"):
        assert check_result(store.locate_run("pretrain", key), key).valid, "a job that is done stays done"
    after = world.run("after", "finetune", finetune_config(), [job_of(world, "cell1")])
    assert same_bits(final_weights(before), final_weights(after))


def test_a_run_that_carries_moments_on_says_that_they_were_taken_away(world: World) -> None:
    """Its parent has to run again then: a wrong configuration would stop it for good."""
    store = plan(world)
    assert main(["gc", "real", "--set-aside", "--store", str(store.root)]) == 0
    child = world.job("child", "pretrain", image_config(2), [job_of(world, "trunk1")])
    with pytest.raises(DamagedInputError, match="taken away") as caught:
        run_here(child)
    assert caught.value.damaged_key == "trunk1"
    fresh = world.job("fresh", "pretrain", image_config(2, optimizer_state="fresh"), [job_of(world, "trunk1")])
    assert run_here(fresh)


def test_a_checkpoint_that_never_had_moments_is_another_matter(world: World) -> None:
    lean = world.run("lean", "pretrain", text_config(2), keep_optimizer=False)
    with pytest.raises(ConfigError, match="no optimizer state"):
        run_here(world.job("child", "pretrain", image_config(2), [lean]))


def test_only_what_was_set_aside_may_be_absent(world: World) -> None:
    trunk = job_of(world, "trunk1")
    checkpoint = read_result_checkpoint(trunk.run, "trunk1").path
    (checkpoint / "optimizer.safetensors").rename(checkpoint.parent / "lost")
    with pytest.raises(DamagedInputError, match="does not match"):
        read_result_checkpoint(trunk.run, "trunk1")


def test_a_child_that_is_planned_later_finds_the_moments_again(world: World) -> None:
    store = plan(world)
    assert main(["gc", "real", "--set-aside", "--store", str(store.root)]) == 0
    plan(world, more=(planned("cell2", "pretrain", "trunk1"),))
    (trash_id,) = [path.name for path in store.trash.iterdir()]
    assert main(["gc", "real", "--remove", trash_id, "--store", str(store.root)]) == 0
    assert optimizers(world) == ["trunk1"], "the new child needs it, so it came back; the other went"
    undisturbed = world.root / "runs" / "pretrain" / "trunk1" / "set-aside.json"
    assert not undisturbed.exists()
    assert run_here(world.job("cell2", "pretrain", image_config(2), [job_of(world, "trunk1")]))
