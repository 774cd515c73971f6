"""vla_foundry as an engine, as far as no checkout of it is needed: how its files are judged and taken over.

The program is a stand-in (`tests.stages.engines.vla_foundry.vla_foundry_standin`) that leaves vla_foundry's files.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.__main__ import load_job_runner
from stages.checkpoint.openlm import read_pickle
from stages.engines.vla_foundry.options import MODULES, check_installation
from stages.engines.vla_foundry.weights import FoundryWeightNames
from stages.errors import ConfigError, DivergedError, StageError
from stages.job_file import EngineSettings, JobFile
from stages.stop import StopFlag
from tests.stages.engines.vla_foundry import vla_foundry_case as case
from tests.stages.training.training_case import (
    CONTEXT,
    World,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    result_of,
    same_bits,
)

STANDIN = Path(__file__).parent / "vla_foundry_standin.py"
WINDOWS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a checkout of the stand-in below its root."""
    world = make_world(tmp_path_factory.mktemp("world"))
    checkout = world.root / "checkout"
    (checkout / "vla_foundry").mkdir(parents=True)
    shutil.copy(STANDIN, checkout / "vla_foundry" / "main.py")
    (checkout / "vla_foundry" / "__init__.py").touch()
    for name in MODULES:  # the stand-in needs none of them
        if name not in {"torch", "numpy", "yaml", "PIL"}:
            (checkout / f"{name}.py").touch()
    write_timm(checkout, "1.0.16")
    for kind in ("text", "patches"):
        write_checkpoints(checkout, kind)
    return world


def write_timm(checkout: Path, version: str) -> None:
    """What an installed timm says of its version."""
    shutil.rmtree(next(checkout.glob("timm-*.dist-info"), checkout / "none"), ignore_errors=True)
    about = checkout / f"timm-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: timm\nVersion: {version}\n")


def write_checkpoints(checkout: Path, kind: str) -> None:
    """What vla_foundry would save after each window."""
    config = case.config_of(kind)
    folder = checkout / f"made-{'transformer' if kind == 'text' else 'vlm'}"
    folder.mkdir()
    vlm, encoder = case.model(config)
    for number in range(1, WINDOWS + 1):
        state = {name: tensor * number for name, tensor in case.theirs(config, vlm, encoder).items()}
        step = case.STEPS // WINDOWS * number
        head = {
            "checkpoint_num": number,
            "global_step": step,
            "datastrings": ["data/00000000.tar"],
            "curr_shard_idx_per_dataset": [number],
            "samples_seen": 4 * step,
            "shard_shuffle_seed_per_dataset": [config.seed],
        }
        torch.save({**head, "state_dict": state}, folder / f"checkpoint_{number}.pt")
        optimizer = {"checkpoint_num": number, "optimizer": case.moments(config, state, step)}
        torch.save(optimizer, folder / f"optimizer_{number}.pt")
    torch.save({**head, "global_step": case.STEPS - 1, "state_dict": state}, folder / "short.pt")


def job(
    world: World, key: str, config: dict[str, Any], behaviour: str = "trains", parents: tuple[JobFile, ...] = ()
) -> JobFile:
    where = {
        "python": sys.executable, "checkout": str(world.root / "checkout"), "environment": {"BEHAVIOUR": behaviour},
    }  # fmt: skip
    return world.job(key, "pretrain", config, parents, engine=where)


def run(job: JobFile) -> bool:
    return load_job_runner(job)(job, StopFlag())


def made(world: World, kind: str, number: int) -> dict[str, Tensor]:
    """Our names of a checkpoint of the stand-in's."""
    folder = world.root / "checkout" / f"made-{'transformer' if kind == 'text' else 'vlm'}"
    return FoundryWeightNames(case.config_of(kind)).convert_from_foundry(
        read_pickle(folder / f"checkpoint_{number}.pt")["state_dict"]
    )


def log_of(job: JobFile) -> str:
    return (job.run / "engine" / "runs" / "run" / "out.log").read_text()


def test_a_trunk_in_two_segments_goes_on_where_the_first_ended(world: World) -> None:
    first = job(world, "first", case.text_job(stop_step=4), "slow")  # it is stopped once its checkpoint is there
    assert run(first)
    assert same_bits(final_weights(first), made(world, "text", 1))
    second = job(world, "second", case.text_job(), parents=(first,))
    assert run(second)
    assert same_bits(final_weights(second), made(world, "text", 2))
    assert log_of(second).startswith("resumes after 1 from start/checkpoint_1.pt\n")
    result = result_of(second)
    assert (result["steps"], result["tokens"], result["loss"]) == (4, 4 * 4 * CONTEXT, 2.423)
    line = json.loads(second.metrics.read_text().splitlines()[-1])
    assert (line["step"], line["lr"], line["tokens_per_second"], line["first_step"]) == (8, 0.003, 20.5 * CONTEXT, 4)
    assert not (second.run / "engine" / "runs" / "run" / "checkpoints").exists()


@pytest.mark.parametrize("state", ["carried", "fresh"])
def test_an_image_text_run_begins_with_the_trunks_weights_and_ours_go_on_from_it(world: World, state: str) -> None:
    trunk = job(world, f"trunk-{state}", case.text_job())
    assert run(trunk)
    seeing = job(world, f"seeing-{state}", case.image_job(optimizer_state=state), parents=(trunk,))
    assert run(seeing)
    assert log_of(seeing).startswith("resumes after 0 from start/checkpoint_0.pt\n")
    assert same_bits(final_weights(seeing), made(world, "patches", 2))
    result = result_of(seeing)
    assert (result["images"], result["image_tokens"]) == (32, 32 * 4)
    tuned = world.run(f"tuned-{state}", "finetune", finetune_config(epochs=1), [seeing])
    assert result_of(tuned)["steps"] > 0


def test_our_image_text_stage_goes_on_from_its_trunk_with_its_moments(world: World) -> None:
    whole = job(world, "whole", case.text_job())
    assert run(whole)
    ours = world.run("ours", "pretrain", image_config(3, model=case.SHAPE, optimizer_state="carried"), [whole])
    assert result_of(ours)["steps"] == 3


@pytest.mark.parametrize(
    ("behaviour", "failure", "message"),
    [
        ("nan", "diverged", "loss is nan before step 4"),
        ("killed", "killed", "killed by signal 9"),
        ("torn", "code", "ended with exit code 0 and left no finished run"),
        ("short_of_data", "code", "ended its window 2 at step 7 and not 8: 'text' has other samples"),
    ],
)
def test_only_whole_files_count(world: World, behaviour: str, failure: str, message: str) -> None:
    failing = job(world, behaviour.replace("_", "-"), case.text_job(), behaviour)
    with pytest.raises(StageError, match=message) as raised:
        run(failing)
    assert raised.value.failure_class == failure
    assert isinstance(raised.value, DivergedError) == (behaviour == "nan")
    assert not failing.result.exists()


def break_weights(job: JobFile, world: World, number: int) -> None:
    """The checkpoints that vla_foundry leaves after a loss that was not a number, up to `number`."""
    folder = job.run / "engine" / "runs" / "run" / "checkpoints"
    shutil.copytree(world.root / "checkout" / "made-transformer", folder)
    for later in range(number + 1, WINDOWS + 1):
        (folder / f"checkpoint_{later}.pt").unlink()
    content = read_pickle(folder / f"checkpoint_{number}.pt")
    content["state_dict"]["norm.weight"][3] = torch.nan
    torch.save(content, folder / f"checkpoint_{number}.pt")


def test_weights_that_are_no_numbers_are_not_taken(world: World) -> None:
    broken = job(world, "broken", case.text_job())
    break_weights(broken, world, WINDOWS)
    with pytest.raises(DivergedError, match=r"norm\.weight has NaN"):
        run(broken)


def test_an_attempt_does_not_go_on_from_weights_that_are_no_numbers(world: World) -> None:
    broken = job(world, "broken-before", case.text_job())
    break_weights(broken, world, 1)
    assert run(broken)
    assert "resumes" not in log_of(broken)


def test_a_torn_checkpoint_is_passed_over_by_the_next_attempt(world: World) -> None:
    with pytest.raises(StageError):
        run(job(world, "resumed", case.text_job(), "torn"))
    again = job(world, "resumed", case.text_job())
    assert run(again)
    assert "resumes" not in log_of(again), "the torn one was taken"
    steps = [json.loads(line)["step"] for line in again.metrics.read_text().splitlines()]
    assert steps == [4, 8], "a step that was done twice has one line"


def test_a_window_that_was_too_short_is_done_again(world: World) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="at step 7 and not 8"):
            run(job(world, "shorter", case.text_job(), "short_of_data"))
    again = job(world, "shorter", case.text_job())
    assert run(again)
    assert log_of(again).count("resumes after 1 from") == 2


def test_a_finished_run_is_a_success_without_a_start(world: World) -> None:
    done = job(world, "done", case.text_job())
    folder = done.run / "engine" / "runs" / "run" / "checkpoints"
    shutil.copytree(world.root / "checkout" / "made-transformer", folder)
    assert run(done)
    assert not (done.run / "engine" / "runs" / "run" / "out.log").exists()


def test_another_trunks_segment_is_no_parent_of_a_trunk(world: World) -> None:
    first = job(world, "of-another", case.text_job(stop_step=4, seed=7))
    assert run(first)
    with pytest.raises(ConfigError, match="its own trunk only"):
        run(job(world, "strange", case.text_job(), parents=(first,)))


def test_a_checkout_or_interpreter_that_lacks_something_is_named(world: World, tmp_path: Path) -> None:
    def check(checkout: Path) -> None:
        check_installation(EngineSettings(python=sys.executable, checkout=str(checkout)), images=True)

    with pytest.raises(ConfigError, match=r"has no vla_foundry/main\.py"):
        check(tmp_path)
    shutil.copytree(world.root / "checkout", tmp_path / "checkout")
    write_timm(tmp_path / "checkout", "1.0.15")
    with pytest.raises(
        ConfigError, match=r"timm 1\.0\.15, which reads no encoder from a folder; install timm 1\.0\.16"
    ):
        check(tmp_path / "checkout")
    (tmp_path / "checkout" / "draccus.py").unlink()
    with pytest.raises(ConfigError, match="lacks draccus"):
        check(tmp_path / "checkout")
