"""What vla_foundry is given: configuration, weights, optimizer, shards, encoder, processor; and what it cannot do.

What real vla_foundry says of weights, optimizer, logits and captions was saved (`make_golden.py`).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from stages.data.captions import Captions
from stages.data.collate import collate
from stages.data.images import PictureReader
from stages.data.packing import join
from stages.data.tokenizer import TextTokenizer
from stages.engines.limits import engine_problem
from stages.engines.vla_foundry.data import (
    IMAGE,
    PADDING,
    chat_template,
    check_text,
    image_config,
    open_folder,
    processor_config,
    tokenizer_config,
    windows_of,
    write_processor,
    write_windows,
)
from stages.engines.vla_foundry.options import options
from stages.engines.vla_foundry.weights import Names, from_timm, timm_config, to_timm
from stages.errors import ConfigError, DataError
from stages.vision.specs import encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.engines.vla_foundry import vla_foundry_case as case
from tests.stages.training.training_case import CONTEXT, document_of, same_bits, write_tar, write_text, write_tokenizer

GOLDEN: dict[str, Any] = json.loads(case.GOLDEN.read_text())
SEED = 124


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of 300 tokens and two shards of text."""
    folder = tmp_path_factory.mktemp("data")
    write_tokenizer(folder / "tokenizer.json")
    write_text(folder / "text", shards=2, sequences=100)
    return folder


@pytest.mark.parametrize("kind", case.KINDS)
def test_our_logits_are_those_of_vla_foundry_with_the_same_weights(kind: str) -> None:
    logits = case.our_logits(case.config_of(kind))[:, -1, ::25]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[kind]["logits"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", case.ENCODERS)
def test_our_loss_of_a_captioned_image_is_that_of_vla_foundry(kind: str, data: Path, tmp_path: Path) -> None:
    """Each has read the same PNG and text file in its own way; without z-loss, which differs."""
    config = case.config_of(kind)
    vlm, encoder = case.model(config)
    spec = encoder_spec(case.ENCODERS[kind][0])
    write_tar(tmp_path / "shard.tar", {"0.png": case.picture(), "0.txt": case.CAPTION.encode()})
    reader = PictureReader(spec, ImageTransform.of(spec, "resize-naive"), None)
    tokenizer = TextTokenizer(data / "tokenizer.json", 304)
    captions = Captions("captions", tmp_path, field="", tokenizer=tokenizer, images=reader)
    batch = collate([join([document_of(captions, 0)], 0)], CONTEXT)
    assert batch.pictures[0].pixels is not None
    assert encoder is not None
    pixels = batch.pictures[0].pixels[None]
    seen = pixels if vlm.encoder is not None else encoder(pixels)
    loss: torch.Tensor = vlm(batch.with_images(seen), count=len(batch.targets), z_loss=0.0, chunk_tokens=0)[0]
    assert loss.item() == pytest.approx(GOLDEN[kind]["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", case.KINDS)
def test_each_weight_goes_to_its_own_name_at_vla_foundry(kind: str) -> None:
    config = case.config_of(kind)
    theirs = case.theirs(config, *case.model(config))
    sums = {name: case.weighted_sum(tensor) for name, tensor in theirs.items()}
    assert sums == pytest.approx(GOLDEN[kind]["sums"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", case.KINDS)
def test_the_weights_have_the_names_and_numbers_of_vla_foundrys_optimizer(kind: str) -> None:
    names = Names(case.config_of(kind))
    assert sorted(names.trained()) == sorted(GOLDEN[kind]["trained"])
    assert list(names.numbered()) == GOLDEN[kind]["groups"]


@pytest.mark.parametrize("kind", case.KINDS)
def test_weights_and_moments_come_back_as_they_went(kind: str) -> None:
    config = case.config_of(kind)
    vlm, encoder = case.model(config)
    names, weights = Names(config), vlm.weights()
    theirs = case.theirs(config, vlm, encoder)
    assert same_bits(names.from_theirs(theirs), weights)
    of_language_model = {name: weights[name] for name in names.transformer}
    given = {f"exp_avg.{name}": tensor for name, tensor in of_language_model.items()}
    given |= {f"exp_avg_sq.{name}": tensor**2 for name, tensor in of_language_model.items()}
    given |= {f"step.{name}": torch.tensor(7.0) for name in of_language_model}
    written = names.moments_to_theirs(given, {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1})
    whole = case.moments(config, theirs, 7)
    whole["state"] |= written["state"]
    assert written["param_groups"][1]["params"] == whole["param_groups"][1]["params"]
    back = names.moments_from_theirs(whole)
    assert same_bits({name: back[name] for name in given}, given)
    assert {name.partition(".")[2] for name in back} == weights.keys()


def test_the_files_given_to_vla_foundry_are_these() -> None:
    rendered = {
        kind: options(case.config_of(kind), log_steps=10, start=start, weights_only=start is not None)
        for kind, start in (("text", None), ("siglip", "start/checkpoint_0.pt"))
    }
    rendered |= {f"{kind} encoder": timm_config(encoder_spec(name)) for kind, (name, _) in case.ENCODERS.items()}
    rendered["processor"] = {
        "processor_config.json": processor_config(encoder_spec("patches-16-32")),
        "preprocessor_config.json": image_config(encoder_spec("patches-16-32")),
        "tokenizer_config.json": tokenizer_config("<|endoftext|>", PADDING),
        "chat_template.jinja": chat_template("<|endoftext|>"),
    }
    assert rendered == json.loads(case.FILES.read_text())


def test_a_captioned_image_becomes_the_tokens_that_our_stage_makes_of_it(data: Path, tmp_path: Path) -> None:
    """The row was made by transformers from the files that are written here."""
    tokenizer = TextTokenizer(data / "tokenizer.json", 304)
    write_processor(tokenizer, encoder_spec("patches-16-32"), 304, tmp_path)
    known = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    places = {entry["content"]: entry["id"] for entry in known}
    caption = [*tokenizer.encode(case.CAPTION.strip()), tokenizer.end_of_text]
    padding = CONTEXT + 1 - 4 - len(caption)
    assert GOLDEN["patches"]["row"] == [places[IMAGE]] * 4 + caption + [places[PADDING]] * padding


def test_a_tokenizer_without_room_for_padding_is_refused(data: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer(data / "tokenizer.json", 300)
    with pytest.raises(ConfigError, match=r"no padding token .* vocabulary of 300 has no room"):
        write_processor(tokenizer, encoder_spec("patches-16-32"), 300, tmp_path)


def test_a_tokenizer_is_filled_up_where_vla_foundry_would_count_its_tokens(data: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer(data / "tokenizer.json", 50_432)
    write_processor(tokenizer, encoder_spec("patches-16-32"), 50_432, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 50_432


TEXTS = [{"name": "a", "kind": "text", "share": 0.5}, {"name": "b", "kind": "text", "share": 0.5}]
VISION = {"encoder": "patches-16-32", "projector": "linear"}


def arguments(**given: Any) -> dict[str, Any]:
    return {"engine": {**case.ENGINE, "arguments": given}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (arguments(num_checkpoints=3), "8 steps, which 3 checkpoints do not divide"),
        (arguments(num_checkpoints=0), "whole number above 0"),
        (arguments(num_checkpoints=True), "whole number above 0"),
        (arguments(lr=0.1), "lr is none that can be given"),
        (arguments(**{"hparams.per_gpu_batch_size": 3}), "3 does not divide batch_sequences 4"),
        ({"stop_step": 3}, "branches off at step 3, and vla_foundry saves every 4 steps only"),
        ({"precision": "bf16"}, "keeps the weights themselves in bfloat16"),
        ({"model": {**case.SHAPE, "rotary_table": "bfloat16"}}, "rotary_table: float32"),
        ({"schedule": {"peak_lr": 1e-3, "final_lr": 1e-2, "total_steps": 8}}, "its rates only fall"),
        ({"sources": TEXTS}, "one text data set"),
    ],
)
def test_what_vla_foundry_cannot_do_on_text_is_known_before_it_starts(changes: dict[str, Any], message: str) -> None:
    assert message in engine_problem(case.typed(case.text_job(**changes)), "trunk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"name": "a", "kind": "text", "share": 0.5},
                      {"name": "captions", "kind": "captions", "share": 0.5}]}, "one data set of captions"),
        ({"sources": [{"name": "captions", "kind": "captions", "field": "syn_text"}]}, "reads the text file only"),
        ({"packing": "packed"}, "pretrain.packing: padded"),
        (arguments(**{"hparams.grad_checkpointing": True}), "its timm encoders have none"),
        ({"vision": {**VISION, "projector": "gelu-mlp"}}, "pretrain.projector: linear"),
        ({"vision": {**VISION, "transform": "letterbox"}}, "image_transform: resize-naive"),
        ({"vision": {**VISION, "encoder": "dinov2-tiny-reg-32"}}, "class and registers too"),
        ({"vision": {**VISION, "encoder": "efficientnet-lite0"}}, "take one of SigLIP's, or patches"),
        ({"vision": {**VISION, "encoder": "patches-4-32"}}, "no room for the 64 tokens of an image"),
    ],
)  # fmt: skip
def test_what_vla_foundry_cannot_do_on_images_is_known_before_it_starts(changes: dict[str, Any], message: str) -> None:
    assert message in engine_problem(case.typed(case.image_job(**changes)), "pretrain")


def test_vla_foundry_trains_trunks_and_image_text_runs_only() -> None:
    assert engine_problem(case.config_of("text"), "trunk") == engine_problem(case.config_of("siglip"), "pretrain") == ""
    assert "set image_share: 1" in engine_problem(case.config_of("text"), "pretrain")
    assert "takes trunk, pretrain and not finetune" in engine_problem(case.config_of("text"), "finetune")


def read_as_vla_foundry(folder: Path, seed: int) -> list[str]:
    """The shards in the order in which it takes them (its data.dataloader.get_datastring_input)."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    np.random.default_rng(seed).shuffle(lines)
    return [line["shard"] for line in lines]


def test_each_window_has_just_the_samples_that_it_needs(data: Path, tmp_path: Path) -> None:
    shards = open_folder("text", data / "text")
    windows = windows_of(shards.sizes, windows=6, samples=70, seed=SEED)
    write_windows(shards, tmp_path, windows, first=0, last=6, seed=SEED)
    read = iter(read_as_vla_foundry(tmp_path, SEED))
    for window in windows:
        folders = [open_folder("window", tmp_path / f"{next(read)}.tar") for _ in window]
        assert [sum(folder.sizes) for folder in folders] == [taken for _, taken in window]
        assert sum(taken for _, taken in window) == 70


def test_only_the_shards_of_the_wanted_windows_are_written(data: Path, tmp_path: Path) -> None:
    shards = open_folder("text", data / "text")
    windows = windows_of(shards.sizes, windows=6, samples=70, seed=SEED)
    write_windows(shards, tmp_path, windows, first=2, last=3, seed=SEED)
    assert len(list(tmp_path.glob("*.tar"))) == len(windows[2])
    assert len(read_as_vla_foundry(tmp_path, SEED)) == sum(map(len, windows))


def test_a_shard_with_fewer_samples_than_its_manifest_says_is_told(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "text", tmp_path / "text")
    manifest = tmp_path / "text" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("100", "200"))
    shards = open_folder("text", tmp_path / "text")
    with pytest.raises(DataError, match=r"shard-\d\.tar: 100 samples; its manifest\.jsonl says more"):
        write_windows(shards, tmp_path / "data", [[(0, 150)]], first=0, last=1, seed=SEED)


def test_text_of_another_length_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text", shards=1, sequences=3, length=40)
    with pytest.raises(ConfigError, match=r"40 tokens; vla_foundry needs context \+ 1 = 33"):
        check_text(open_folder("text", tmp_path / "text"), CONTEXT)


def test_a_trained_encoder_goes_to_timms_names_and_back() -> None:
    spec = encoder_spec("siglip-tiny-32")
    encoder = {name: tensor.detach() for name, tensor in case.build_encoder(spec).named_parameters()}
    assert same_bits(from_timm(spec, to_timm(spec, encoder)), encoder)
