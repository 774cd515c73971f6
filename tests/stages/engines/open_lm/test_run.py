"""open_lm as an engine, as far as no checkout of it is needed: what it is given, and how its files are judged.

The program is a stand-in (`tests.stages.engines.open_lm.open_lm_standin`) that leaves open_lm's files.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.__main__ import load_job_runner
from stages.checkpoint.openlm import read_pickle
from stages.config import PretrainConfig
from stages.engines.limits import find_engine_problem
from stages.engines.open_lm.data import plan_shard_reads, read_shards, shuffle_indices, write_data
from stages.engines.open_lm.options import MODULES, build_model_options, build_options, check_installation
from stages.errors import ConfigError, DivergedError, StageError
from stages.job_file import EngineSettings, JobFile
from stages.models.openlm import OpenLM
from stages.stop import StopFlag
from tests.stages.training.training_case import (
    CONTEXT,
    World,
    final_weights,
    image_config,
    make_world,
    result_of,
    same_bits,
    text_config,
)

GOLDEN = Path(__file__).with_name("golden_files.json")
STANDIN = Path(__file__).parent / "open_lm_standin.py"
STEPS, EPOCHS = 8, 2
ENGINE = {"kind": "open_lm", "revision": "1", "arguments": {"epochs": EPOCHS}}
SEED = 124


def config(**changes: Any) -> dict[str, Any]:
    return text_config(STEPS, **{"engine": ENGINE, **changes})


def typed(**changes: Any) -> PretrainConfig:
    return PretrainConfig.model_validate(config(**changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a checkout of the stand-in below its root."""
    world = make_world(tmp_path_factory.mktemp("world"))
    package = world.root / "checkout" / "open_lm"
    package.mkdir(parents=True)
    shutil.copy(STANDIN, package / "main.py")
    (package / "__init__.py").touch()
    (package / "model.py").touch()
    for name in MODULES:  # the stand-in needs none of them
        if name not in {"torch", "numpy", "yaml", "PIL"}:
            (world.root / "checkout" / f"{name}.py").touch()
    write_checkpoints(world.root / "checkout" / "made")
    return world


def write_checkpoints(folder: Path) -> None:
    """What open_lm would save after each epoch, numpy learning rates in its optimizer included."""
    folder.mkdir()
    for number in range(1, EPOCHS + 1):
        torch.manual_seed(number)
        model = OpenLM(typed().model)
        names = [name for name, _ in model.named_parameters()]
        moments = {
            i: {"step": torch.tensor(4.0 * number), "exp_avg": p.detach() / 2, "exp_avg_sq": p.detach() ** 2}
            for i, (_, p) in enumerate(model.named_parameters())
        }
        groups = [{"params": [], "lr": np.float64(1e-3)}, {"params": list(range(len(names))), "lr": np.float64(1e-3)}]
        step = STEPS // EPOCHS * number
        head = {
            "epoch": number,
            "name": "run",
            "step": step,
            "next_shard_per_source": [number],
            "samples_seen": 4 * step,
        }
        torch.save({**head, "state_dict": model.state_dict()}, folder / f"epoch_{number}.pt")
        optimizer = {"state": moments, "param_groups": groups}
        torch.save({**head, "optimizer": optimizer}, folder / f"optimizer_{number}.pt")
        torch.save({**head, "is_final_checkpoint": number == EPOCHS}, folder / f"stats_{number}.pt")


def job(
    world: World, key: str, behaviour: str = "trains", parents: tuple[JobFile, ...] = (), **changes: Any
) -> JobFile:
    where = {
        "python": sys.executable, "checkout": str(world.root / "checkout"), "environment": {"BEHAVIOUR": behaviour},
    }  # fmt: skip
    return world.job(key, "pretrain", config(**changes), parents, engine=where)


def run(job: JobFile) -> bool:
    return load_job_runner(job)(job, StopFlag())


def made(world: World, number: int) -> dict[str, Any]:
    weights: dict[str, Any] = read_pickle(world.root / "checkout" / "made" / f"epoch_{number}.pt")["state_dict"]
    return weights


def test_the_files_given_to_open_lm_are_these() -> None:
    rendered = {
        "options.json": build_options(typed(), data_key="json.gz", log_steps=10),
        "model.json": build_model_options(typed().model, CONTEXT),
    }
    assert rendered == json.loads(GOLDEN.read_text())


def test_a_trunk_in_two_segments_goes_on_where_the_first_ended(world: World) -> None:
    first = job(world, "first", "slow", stop_step=4)  # it would train on: it is stopped once its checkpoint is there
    assert run(first)
    assert same_bits(final_weights(first), made(world, 1))
    second = job(world, "second", parents=(first,))
    assert run(second)
    assert same_bits(final_weights(second), made(world, 2))
    log = (second.run / "engine" / "logs" / "run" / "out.log").read_text()
    assert log.startswith("resumes after 1 with 1\n"), "not from the first one's checkpoint, or it could not be read"
    result = result_of(second)
    assert (result["steps"], result["tokens"], result["loss"]) == (4, 4 * 4 * CONTEXT, 2.423)
    line = json.loads(second.metrics.read_text().splitlines()[-1])
    assert (line["step"], line["lr"], line["tokens_per_second"], line["first_step"]) == (8, 0.003, 44112.8, 4)
    assert not (second.run / "engine" / "logs" / "run" / "checkpoints").exists()


def test_our_image_text_stage_goes_on_from_open_lms_trunk_with_its_moments(world: World) -> None:
    whole = job(world, "whole")
    assert run(whole)
    seeing = world.run("seeing", "pretrain", image_config(3, optimizer_state="carried"), [whole])
    assert result_of(seeing)["steps"] == 3


@pytest.mark.parametrize(
    ("behaviour", "failure", "message"),
    [
        ("nan", "diverged", "loss was not a number"),
        ("killed", "killed", "killed by signal 9"),
        ("torn", "code", "ended with exit code 0 and left no finished run"),
        ("short_of_data", "code", "fewer sequences of 33 tokens than the manifest of 'text' says"),
    ],
)
def test_only_whole_files_count(world: World, behaviour: str, failure: str, message: str) -> None:
    failing = job(world, behaviour.replace("_", "-"), behaviour)
    with pytest.raises(StageError, match=message) as raised:
        run(failing)
    assert raised.value.failure_class == failure
    assert isinstance(raised.value, DivergedError) == (behaviour == "nan")
    assert not failing.result.exists()


def test_a_torn_checkpoint_is_passed_over_by_the_next_attempt(world: World) -> None:
    with pytest.raises(StageError):
        run(job(world, "resumed", "torn"))
    again = job(world, "resumed")
    assert run(again)
    log = (again.run / "engine" / "logs" / "run" / "out.log").read_text()
    assert log.count("resumes after 0") == 2, "the torn one was taken"
    steps = [json.loads(line)["step"] for line in again.metrics.read_text().splitlines()]
    assert steps == [4, 8], "a step that was done twice has one line"


def test_a_finished_run_is_a_success_without_a_start(world: World) -> None:
    """open_lm itself ends with an error when it is started again."""
    done = job(world, "done")
    folder = done.run / "engine" / "logs" / "run" / "checkpoints"
    shutil.copytree(world.root / "checkout" / "made", folder)
    assert run(done)
    assert not (done.run / "engine" / "logs" / "run" / "out.log").exists()


def test_another_trunks_segment_is_no_parent(world: World) -> None:
    first = job(world, "of-another", stop_step=4, seed=7)
    assert run(first)
    with pytest.raises(ConfigError, match="its own trunk only"):
        run(job(world, "strange", parents=(first,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {**ENGINE, "arguments": {"epochs": 3}}}, "8 steps, which 3 epochs of open_lm do not divide"),
        ({"engine": {**ENGINE, "arguments": {"epochs": 0}}}, "whole number above 0"),
        ({"engine": {**ENGINE, "arguments": {"lr": 0.1}}}, "lr follows from the job"),
        ({"engine": {**ENGINE, "arguments": {"train-num-samples": 7}}}, "train-num-samples follows from the job"),
        ({"stop_step": 3}, "branches off at step 3, and open_lm saves every 4 steps only"),
        ({"precision": "bf16"}, "rotary_table: bfloat16"),
        ({"sources": [{"name": "a", "kind": "text", "share": 0.5}, {"name": "b", "kind": "text", "share": 0.5}]},
         "one text data set"),
    ],
)  # fmt: skip
def test_what_open_lm_cannot_do_is_known_before_it_starts(changes: dict[str, Any], message: str) -> None:
    assert message in find_engine_problem(typed(**changes), "trunk")


def test_open_lm_trains_trunks_only() -> None:
    assert "takes trunk and not pretrain" in find_engine_problem(typed(), "pretrain")
    assert find_engine_problem(typed(), "trunk") == ""


def read_as_open_lm(folder: Path) -> list[tuple[str, int]]:
    """The shards in the order in which open_lm, given SEED, takes them (its file_utils.get_metadata_file)."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().split("\n")[:-1]]
    np.random.default_rng(SEED).shuffle(lines)
    return [(line["shard"], line["num_sequences"]) for line in lines]


def test_the_manifest_ends_an_epoch_wherever_it_is_wanted(world: World, tmp_path: Path) -> None:
    shards = read_shards("text", world.data / "text")
    rows = list(plan_shard_reads(shards.sizes, epochs=6, sequences=70, seed=SEED))
    write_data(shards, tmp_path, rows, seed=SEED)
    read = read_as_open_lm(tmp_path)
    assert [(int(name), count) for name, count in read] == rows
    totals = np.cumsum([count for _, count in read])
    assert set(70 * np.arange(1, 7)) <= set(totals.tolist())
    assert all((tmp_path / f"{name}.tar").resolve().parent == world.data / "text" for name, _ in read)
    assert shards.data_key == "json.gz"


def test_each_pass_over_the_shards_has_an_order_of_its_own() -> None:
    rows = [shard for shard, _ in plan_shard_reads([10] * 20, epochs=2, sequences=200, seed=SEED)]
    assert rows[:20] == shuffle_indices(20, SEED)
    assert rows[20:] == shuffle_indices(20, SEED + 1)
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))


def test_a_checkout_or_interpreter_that_lacks_something_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no open_lm/main\.py"):
        check_installation(EngineSettings(python=sys.executable, checkout=str(tmp_path)))
    shutil.copytree(world.root / "checkout" / "open_lm", tmp_path / "open_lm")
    (tmp_path / "open_lm" / "model.py").write_text("import xformers.ops as xops\n")
    with pytest.raises(ConfigError, match=r"lacks .*xformers.*branch prismatic_openlm"):
        check_installation(EngineSettings(python=sys.executable, checkout=str(tmp_path)))
