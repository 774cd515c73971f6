"""prismatic as an engine, without its checkout and without a GPU: what it is given, and how its files are judged.

The program is a stand-in (`tests.stages.engines.prismatic.prismatic_standin`) that leaves prismatic's files.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.__main__ import load_job_runner
from stages.checkpoint.files import load_model
from stages.data.prompts import TEMPLATES
from stages.engines.prismatic import start_program
from stages.engines.prismatic.options import MODULES, check_installation
from stages.errors import ConfigError, StageError
from stages.job_file import EngineSettings, JobFile
from stages.stop import StopFlag
from tests.stages.engines.prismatic.prismatic_case import (
    config,
    made_parts,
    made_weights,
    write_parent_run,
    write_words,
)
from tests.stages.engines.prismatic.prismatic_standin import STEPS
from tests.stages.training.training_case import World, result_of, same_bits
from tests.stages.training.training_case import write_conversations as write_llava

STANDIN = Path(__file__).parent / "prismatic_standin.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a parent and a checkout of the stand-in below its root."""
    world = World(tmp_path_factory.mktemp("world"))
    write_words(world.data / "tokenizer.json")
    write_llava(world.data / "conversations", 10)
    write_parent_run(world)
    checkout = world.root / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    (checkout / "scripts" / "pretrain.py").touch()
    (checkout / "torch" / "distributed").mkdir(parents=True)
    gpu = "class cuda:\n    is_available = is_bf16_supported = staticmethod(lambda: True)\n"
    (checkout / "torch" / "__init__.py").write_text(gpu)
    (checkout / "torch" / "distributed" / "__init__.py").touch()
    shutil.copy(STANDIN, checkout / "torch" / "distributed" / "run.py")
    for name in MODULES[1:]:  # the stand-in needs none of them
        (checkout / f"{name}.py").touch()
    write_timm(checkout, "0.9.10")
    torch.save({"model": made_parts()}, checkout / "made.pt")
    return world


def write_timm(checkout: Path, version: str) -> None:
    folder = checkout / "timm.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: timm\nVersion: {version}\n")


def job(world: World, key: str, behaviour: str = "trains", **changes: Any) -> JobFile:
    where = {
        "python": sys.executable, "checkout": str(world.root / "checkout"), "environment": {"BEHAVIOUR": behaviour},
    }  # fmt: skip
    parent = world.job(
        "parent", "pretrain", json.loads((world.root / "runs/pretrain/parent/job.json").read_text())["config"]
    )
    return world.job(key, "finetune", config(**changes), [parent], engine=where)


def run(job: JobFile) -> bool:
    return load_job_runner(job)(job, StopFlag())


def test_what_prismatic_makes_becomes_a_checkpoint_of_ours(world: World) -> None:
    tuned = job(world, "tuned")
    assert run(tuned)
    loaded = load_model(tuned.run, tuned.key)
    assert same_bits(loaded.vlm.collect_weights(), made_weights())
    state = loaded.checkpoint.state
    assert (state["stage"], state["step"], state["prompt"]) == ("finetune", STEPS, TEMPLATES["pure"].dump_state())
    result = result_of(tuned)
    assert (result["steps"], result["images"], result["image_tokens"]) == (STEPS, 24, 24 * 729)
    lines = [json.loads(line) for line in tuned.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["loss"] for line in lines] == pytest.approx([2.85, 2.65, 2.45])
    assert (lines[-1]["lr"], lines[-1]["total_steps"]) == (pytest.approx(6e-4), STEPS)
    assert not (tuned.run / "engine" / "runs" / "run" / "checkpoints").exists()


def test_prismatic_is_given_the_parents_weights(world: World) -> None:
    given = job(world, "given", "nothing")
    with pytest.raises(StageError):
        run(given)
    folder = given.run / "engine"
    language = torch.load(folder / "language_model.pt", weights_only=True)["state_dict"]
    projector = torch.load(folder / "projector.pt", weights_only=True)["model"]["projector"]
    parent = load_model(given.parents[0].run).vlm.collect_weights()
    assert same_bits({**language, **projector}, parent)
    assert (folder / "start.py").read_bytes() == Path(start_program.__file__).read_bytes()


@pytest.mark.parametrize(
    ("behaviour", "failure", "message"),
    [
        ("nan", "diverged", "loss of step 3 is not a number"),
        ("killed", "killed", "killed by signal 9"),
        ("torn", "code", "exit code 0 and left no finished run: it had come to step 6"),
        ("nothing", "code", "exit code 0 and left no finished run"),
    ],
)
def test_only_whole_files_count(world: World, behaviour: str, failure: str, message: str) -> None:
    failing = job(world, behaviour.replace("_", "-"), behaviour)
    with pytest.raises(StageError, match=message) as raised:
        run(failing)
    assert raised.value.failure_class == failure
    assert not failing.result.exists()


def test_the_next_attempt_begins_anew(world: World) -> None:
    with pytest.raises(StageError):
        run(job(world, "anew", "torn"))
    again = job(world, "anew", "late_error")  # its exit code decides nothing
    assert run(again)
    log = (again.run / "engine" / "runs" / "run" / "run.jsonl").read_text()
    assert len(log.splitlines()) == STEPS, "prismatic appends to its log"


def test_a_finished_run_is_a_success_without_a_start(world: World) -> None:
    done = job(world, "done")
    checkpoints = done.run / "engine" / "runs" / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("step-000006-epoch-01-loss=2.4000.pt", "latest-checkpoint.pt"):
        shutil.copy(world.root / "checkout" / "made.pt", checkpoints / name)
    assert run(done)
    assert not (done.run / "engine" / "config.json").exists()
    assert result_of(done)["loss"] == 2.4


def test_a_checkout_or_interpreter_that_lacks_something_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no scripts/pretrain\.py"):
        check_installation(EngineSettings(python=sys.executable, checkout=str(tmp_path)))
    checkout = tmp_path / "checkout"
    shutil.copytree(world.root / "checkout", checkout)
    settings = EngineSettings(python=sys.executable, checkout=str(checkout))
    check_installation(settings)
    write_timm(checkout, "1.0.15")
    with pytest.raises(ConfigError, match=r"timm 1\.0\.15 .* install timm==0\.9\.10"):
        check_installation(settings)
    write_timm(checkout, "0.9.10")
    (checkout / "open_lm.py").unlink()
    with pytest.raises(ConfigError, match=r"lacks open_lm.*PYTHONPATH"):
        check_installation(settings)
    (checkout / "open_lm.py").touch()
    (checkout / "torch" / "__init__.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    with pytest.raises(ConfigError, match="trains on a GPU"):
        check_installation(settings)
