"""Pre-training with tiny random SigLIP and DINOv2, end to end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoint.files import load_model
from stages.config import Vision
from stages.data.image_reader import open_image_reader
from stages.job_file import JobFile
from stages.models.generation import generate_greedy
from stages.vision.encoders import load_encoder_module, resolve_encoder_paths
from stages.vision.feature_extractor import load_feature_extractor
from tests.stages.training.test_pretrain import StopAfter
from tests.stages.training.training_case import (
    World,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    png,
    result_of,
    run_here,
    same_bits,
)
from tests.stages.vision.encoder_case import DINOV2, FUSED, SIGLIP, dinov2_model, save, siglip_model

CPU = torch.device("cpu")
FOLDERS = {SIGLIP: ["siglip"], DINOV2: ["dinov2"], FUSED: ["siglip", "dinov2"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    save(siglip_model(), world.data / "siglip")
    save(dinov2_model(), world.data / "dinov2")
    return world


def config_with(encoder: str, steps: int = 4, **changes: Any) -> dict[str, Any]:
    return {**image_config(steps, share=0.75), "vision": {"encoder": encoder, "weights": FOLDERS[encoder], **changes}}


@pytest.mark.parametrize(
    ("encoder", "projector", "layers"),
    [(SIGLIP, "linear", 1), (DINOV2, "gelu-mlp", 2), (FUSED, "fused-gelu-mlp", 3)],
)
def test_a_frozen_encoder_is_looked_through_and_not_kept(
    world: World, encoder: str, projector: str, layers: int
) -> None:
    job = world.run(f"frozen-{projector}", "pretrain", config_with(encoder, projector=projector))
    result, weights = result_of(job), final_weights(job)
    assert result["image_tokens"] == 16 * result["images"] > 0
    projectors = [name for name in weights if name.startswith("projector.") and name.endswith("weight")]
    assert len(projectors) == layers
    assert not any(name.startswith("encoder.") for name in weights)


def test_memory_and_store_change_no_bit(world: World) -> None:
    config = config_with(SIGLIP, steps=3)
    settings: list[dict[str, Any]] = [
        {"feature_cache_gib": 0},
        {"feature_cache_gib": 1},
        {"feature_cache_gib": 0, "feature_store": "../../../features"},  # fills it
        {"feature_cache_gib": 0, "feature_store": "../../../features"},  # reads it
    ]
    runs = [world.run(f"kept-{number}", "pretrain", config, **given) for number, given in enumerate(settings)]
    assert all(same_bits(final_weights(run), final_weights(runs[0])) for run in runs[1:])
    assert len(list((world.root / "features").glob("*/*.index"))) == 1, "the second has nothing to add"


def trained_config(steps: int = 6) -> dict[str, Any]:
    return config_with(FUSED, steps, frozen=False, projector="fused-gelu-mlp")


@pytest.fixture(scope="module")
def trained(world: World) -> JobFile:
    return world.run("trained", "pretrain", trained_config())


def test_a_trained_encoder_changes_and_goes_on_to_the_bit(world: World, trained: JobFile) -> None:
    vision = Vision.model_validate(trained_config()["vision"])
    before = load_encoder_module(vision, resolve_encoder_paths(trained, vision), CPU).state_dict()
    after = {name.removeprefix("encoder."): w for name, w in final_weights(trained).items() if "encoder." in name}
    assert after.keys() == before.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > 0.9 * len(before)
    job = world.job("stopped", "pretrain", trained_config())
    assert not run_here(job, StopAfter(3))
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(trained))


def test_a_trained_encoder_comes_with_the_checkpoint(world: World, trained: JobFile, tmp_path: Path) -> None:
    vlm = load_model(trained.run, trained.key).vlm
    assert vlm.vision is not None
    picture = open_image_reader(trained, vlm.vision).read("red", lambda: png("red"))
    pixels = load_feature_extractor(trained, vlm.vision, CPU).extract_features([picture])
    with torch.no_grad():
        assert vlm.project(pixels).isfinite().all()
    [answer] = generate_greedy(vlm, [[1, 2]], max_new_tokens=3, stop_token=-1, features=pixels)
    assert len(answer) == 3


def test_fine_tuning_keeps_a_trained_encoder_as_it_is(world: World, trained: JobFile) -> None:
    tuned = world.run("tuned", "finetune", finetune_config(epochs=1), [trained])
    before, after = final_weights(trained), final_weights(tuned)
    assert before.keys() == after.keys()
    encoder = [name for name in after if name.startswith("encoder.")]
    assert any(name.startswith("encoder.parts.1.") for name in encoder)
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert not torch.equal(before["projector.0.weight"], after["projector.0.weight"])


def test_a_run_without_images_imports_nothing_of_them() -> None:
    unwanted = "{'transformers', 'PIL', 'huggingface_hub'}"
    code = f"import sys, stages.training.pretrain; print(sorted({unwanted} & {{*sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
