"""Exports: transformers computes from them what our model computes."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.checkpoint.files import MODEL
from stages.config import Vision
from stages.export.images import ImagePrefix
from stages.export.run import export_model
from stages.export.weights import build_transformers_config, iter_exported_tensors, split_shards, write_weights
from stages.models.generation import generate_greedy
from stages.models.openlm import OpenLM
from stages.models.vlm import VLM
from stages.vision.encoders import load_encoder_module
from stages.vision.transforms import ImageTransform
from tests.stages.export.export_case import NORMED, PATCHES, make_run, picture, request_for

CASES = {
    "normed": NORMED,
    "bare": NORMED.model_copy(update={"qk_norm": False}),
    "rounded": NORMED.model_copy(update={"rotary_table": "bfloat16"}),
}
TOKENS = torch.randint(1, 96, (2, 48), generator=torch.Generator().manual_seed(3))
PROMPT = [5, 17, 40, 2]

LOADER = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
given, folders = load_file(sys.argv[1]), json.loads(sys.argv[2])
out = {}
with torch.no_grad():
    for name, folder in folders.items():
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        out[name] = model(given["tokens"]).logits
        out[name + ".answer"] = model.generate(given["prompt"], max_new_tokens=8)[0, given["prompt"].shape[1]:]
        if name == "normed":
            embeddings = torch.cat((given["image"], model.get_input_embeddings()(given["prompt"])), dim=1)
            out["seen"] = model(inputs_embeds=embeddings).logits
assert not any(module.partition(".")[0] in {"stages", "sweep", "jobs"} for module in sys.modules)
save_file(out, sys.argv[3])
"""


@dataclass(frozen=True)
class Case:
    """One model, its run folder and its export."""

    vlm: VLM
    run: Path
    folder: Path


def make_case(folder: Path, name: str) -> Case:
    vlm = make_run(folder / "run" / name, CASES[name], PATCHES if name == "normed" else None)
    return Case(vlm, folder / "run" / name, export_model(request_for(folder / "run" / name, folder / "out" / name)))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("export")
    return {name: make_case(folder, name) for name in CASES}


@pytest.fixture(scope="module")
def loaded(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What a process with transformers and nothing of ours computes from the folders."""
    folder = tmp_path_factory.mktemp("loaded")
    image = ImagePrefix.load(cases["normed"].folder)([picture()])
    save_file({"tokens": TOKENS, "prompt": torch.tensor([PROMPT]), "image": image}, folder / "given.safetensors")
    folders = json.dumps({name: str(case.folder) for name, case in cases.items()})
    command = [sys.executable, "-W", "ignore", "-c", LOADER, str(folder / "given.safetensors"), folders]
    subprocess.run([*command, str(folder / "out.safetensors")], check=True, cwd=folder, timeout=300)
    return load_file(folder / "out.safetensors")


def our_answer(vlm: VLM) -> list[int]:
    """Greedy, with no stop token."""
    return generate_greedy(vlm, [PROMPT], max_new_tokens=8, stop_token=-1)[0]


@pytest.mark.parametrize(("name", "tolerance"), [("normed", 2e-5), ("bare", 2e-6), ("rounded", 2e-2)])
def test_transformers_alone_computes_our_logits(
    name: str, tolerance: float, cases: dict[str, Case], loaded: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        ours = cases[name].vlm.lm(TOKENS)
    assert ours.std() > 0.5  # a difference would show
    assert (loaded[name] - ours).abs().max() < tolerance * ours.abs().max()


@pytest.mark.parametrize("name", ["normed", "bare"])
def test_generate_gives_our_greedy_answer(name: str, cases: dict[str, Case], loaded: dict[str, Tensor]) -> None:
    assert loaded[f"{name}.answer"].tolist() == our_answer(cases[name].vlm)


def test_an_image_enters_as_in_our_model(cases: dict[str, Case], loaded: dict[str, Tensor]) -> None:
    vlm = cases["normed"].vlm
    assert vlm.vision is not None
    pixels = ImageTransform(64, "letterbox")(picture())[None]
    features = load_encoder_module(vlm.vision, (), torch.device("cpu"))(pixels)
    tokens = torch.tensor([[0] * vlm.image_tokens + PROMPT])
    with torch.no_grad():
        ours = vlm.lm(inputs_embeds=vlm.embed(tokens, features, torch.arange(vlm.image_tokens)[None]))
        blind = vlm.lm(tokens)
    assert (ours - blind).abs().max() > 0.1
    assert (loaded["seen"] - ours).abs().max() < 2e-5 * ours.abs().max()


def test_open_lms_rounded_frequencies_are_kept() -> None:
    from transformers import OlmoeConfig
    from transformers.models.olmoe.modeling_olmoe import OlmoeRotaryEmbedding

    config = build_transformers_config(CASES["rounded"], context=64, end_of_text=0, dtype="float32")
    exact = 10_000 ** -(torch.arange(0, 16, 2) / 16)
    found = OlmoeRotaryEmbedding(OlmoeConfig(**config)).inv_freq
    torch.testing.assert_close(found, exact.bfloat16().float(), rtol=1e-6, atol=0)
    assert not torch.allclose(found, exact, rtol=1e-4)


def test_a_trained_encoder_goes_with_the_model(tmp_path: Path) -> None:
    vision = Vision(encoder="siglip-tiny-32", weights=("siglip",), frozen=False)
    vlm = make_run(tmp_path / "run", CASES["bare"], vision)
    folder = export_model(request_for(tmp_path / "run", tmp_path / "out"))
    with torch.no_grad():
        ours = vlm.project(ImageTransform(32)(picture())[None])
    assert ours.std() > 0
    assert torch.equal(ImagePrefix.load(folder)([picture()]), ours)


@pytest.mark.parametrize("name", ["normed", "bare"])
def test_every_weight_of_the_checkpoint_is_exported_once(name: str) -> None:
    with torch.device("meta"):
        sizes = {key: weight.numel() for key, weight in OpenLM(CASES[name]).named_parameters()}
    taken = dict.fromkeys(sizes, 0)
    for tensor in iter_exported_tensors(CASES[name]):
        if tensor.source:
            taken[tensor.source] += int(torch.Size(tensor.shape).numel())
    assert taken == sizes


def test_large_weights_are_split_and_the_index_finds_each(tmp_path: Path, cases: dict[str, Case]) -> None:
    checkpoint = next((cases["normed"].run / "checkpoints").iterdir())
    with safe_open(checkpoint / MODEL, framework="pt") as source:
        total = write_weights(source, NORMED, tmp_path, torch.float32, shard_bytes=40_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{place:05d}-of-{len(files):05d}.safetensors" for place in range(1, len(files) + 1)]
    assert len(files) > 3
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    whole = load_file(cases["normed"].folder / "model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == total == sum(each.nbytes for each in whole.values())
    assert [len(shard) for shard in split_shards(iter_exported_tensors(NORMED), 4, 1)] == [1] * len(whole)


def test_the_config_names_the_shape_of_the_model() -> None:
    config = build_transformers_config(NORMED, context=64, end_of_text=0, dtype="bfloat16")
    assert config["intermediate_size"] == NORMED.feed_forward_width
    assert config["num_experts"] == config["num_experts_per_tok"] == 1
    assert (config["max_position_embeddings"], config["eos_token_id"], config["dtype"]) == (64, 0, "bfloat16")
