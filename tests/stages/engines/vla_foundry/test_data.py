"""Shards, processor and a captioned image as vla_foundry is given them, beside what real vla_foundry made of them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from stages.data.captions import Captions
from stages.data.collate import collate_sequences
from stages.data.image_reader import EncoderImageReader
from stages.data.packing import join_documents
from stages.data.tokenizer import TextTokenizer
from stages.engines.vla_foundry.data import (
    IMAGE,
    PADDING,
    check_text_shards,
    plan_windows,
    read_shard_folder,
    write_processor,
    write_windows,
)
from stages.errors import ConfigError, DataError
from stages.models.loss import LossSettings
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.engines.vla_foundry import vla_foundry_case as case
from tests.stages.training.training_case import CONTEXT, document_of, write_tar, write_text, write_tokenizer

GOLDEN: dict[str, Any] = json.loads(case.GOLDEN.read_text())
SEED = 124


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of 300 tokens and two shards of text."""
    folder = tmp_path_factory.mktemp("data")
    write_tokenizer(folder / "tokenizer.json")
    write_text(folder / "text", shards=2, sequences=100)
    return folder


@pytest.mark.parametrize("kind", case.ENCODERS)
def test_our_loss_of_a_captioned_image_is_that_of_vla_foundry(kind: str, data: Path, tmp_path: Path) -> None:
    """Each has read the same PNG and text file in its own way; without z-loss, which differs."""
    config = case.config_of(kind)
    vlm, encoder = case.model(config)
    spec = resolve_encoder_spec(case.ENCODERS[kind][0])
    write_tar(tmp_path / "shard.tar", {"0.png": case.picture(), "0.txt": case.CAPTION.encode()})
    reader = EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)
    tokenizer = TextTokenizer(data / "tokenizer.json", 304)
    captions = Captions("captions", tmp_path, field="", tokenizer=tokenizer, images=reader)
    batch = collate_sequences([join_documents([document_of(captions, 0)], 0)], CONTEXT)
    assert batch.image_inputs[0].pixels is not None
    assert encoder is not None
    pixels = batch.image_inputs[0].pixels[None]
    seen = pixels if vlm.encoder is not None else encoder(pixels)
    loss: torch.Tensor = vlm(batch.attach_images(seen), count=len(batch.targets), settings=LossSettings())[0]
    assert loss.item() == pytest.approx(GOLDEN[kind]["loss"], rel=1e-5)


def test_a_captioned_image_becomes_the_tokens_that_our_stage_makes_of_it(data: Path, tmp_path: Path) -> None:
    """The row was made by transformers from the files that are written here."""
    tokenizer = TextTokenizer(data / "tokenizer.json", 304)
    write_processor(tokenizer, resolve_encoder_spec("patches-16-32"), 304, tmp_path)
    known = json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"]
    places = {entry["content"]: entry["id"] for entry in known}
    caption = [*tokenizer.encode(case.CAPTION.strip()), tokenizer.end_of_text]
    padding = CONTEXT + 1 - 4 - len(caption)
    assert GOLDEN["patches"]["row"] == [places[IMAGE]] * 4 + caption + [places[PADDING]] * padding


def test_a_tokenizer_without_room_for_padding_is_refused(data: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer(data / "tokenizer.json", 300)
    with pytest.raises(ConfigError, match=r"no padding token .* vocabulary of 300 has no room"):
        write_processor(tokenizer, resolve_encoder_spec("patches-16-32"), 300, tmp_path)


def test_a_tokenizer_is_filled_up_where_vla_foundry_would_count_its_tokens(data: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer(data / "tokenizer.json", 50_432)
    write_processor(tokenizer, resolve_encoder_spec("patches-16-32"), 50_432, tmp_path)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 50_432


def read_as_vla_foundry(folder: Path, seed: int) -> list[str]:
    """The shards in the order in which it takes them (its data.dataloader.get_datastring_input)."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    np.random.default_rng(seed).shuffle(lines)
    return [line["shard"] for line in lines]


def test_each_window_has_just_the_samples_that_it_needs(data: Path, tmp_path: Path) -> None:
    shards = read_shard_folder("text", data / "text")
    windows = plan_windows(shards.sizes, windows=6, samples=70, seed=SEED)
    write_windows(shards, tmp_path, windows, first=0, last=6, seed=SEED)
    read = iter(read_as_vla_foundry(tmp_path, SEED))
    for window in windows:
        folders = [read_shard_folder("window", tmp_path / f"{next(read)}.tar") for _ in window]
        assert [sum(folder.sizes) for folder in folders] == [taken for _, taken in window]
        assert sum(taken for _, taken in window) == 70


def test_only_the_shards_of_the_wanted_windows_are_written(data: Path, tmp_path: Path) -> None:
    shards = read_shard_folder("text", data / "text")
    windows = plan_windows(shards.sizes, windows=6, samples=70, seed=SEED)
    write_windows(shards, tmp_path, windows, first=2, last=3, seed=SEED)
    assert len(list(tmp_path.glob("*.tar"))) == len(windows[2])
    assert len(read_as_vla_foundry(tmp_path, SEED)) == sum(map(len, windows))


def test_a_shard_with_fewer_samples_than_its_manifest_says_is_told(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "text", tmp_path / "text")
    manifest = tmp_path / "text" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("100", "200"))
    shards = read_shard_folder("text", tmp_path / "text")
    with pytest.raises(DataError, match=r"shard-\d\.tar: 100 samples; its manifest\.jsonl says more"):
        write_windows(shards, tmp_path / "data", [[(0, 150)]], first=0, last=1, seed=SEED)


def test_text_of_another_length_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "text", shards=1, sequences=3, length=40)
    with pytest.raises(ConfigError, match=r"40 tokens; vla_foundry needs context \+ 1 = 33"):
        check_text_shards(read_shard_folder("text", tmp_path / "text"), CONTEXT)
