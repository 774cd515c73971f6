"""A small world for the training stages: data sets of a few kilobytes, and jobs on them, run for real."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.__main__ import load_stage
from stages.checkpoint.files import find_newest_checkpoint
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import Document, SampleSource
from stages.job_file import JobFile, read_job
from stages.stop import StopFlag
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform

CONTEXT = 32
MODEL = {"d_model": 32, "layers": 2, "heads": 2, "vocabulary": 300}
VISION = {"encoder": "patches-16-32"}  # four tokens of 768 numbers
TEXT = {"name": "text", "kind": "text"}
SMOOTH_ADAMW = {"eps": 1e-3}
"""For runs whose weights are compared to within rounding.

AdamW divides a gradient by its own size plus eps. With eps = 1e-8 a step is little more than the gradient's sign: where
a gradient is all but zero, another order of sums can turn a whole step around. With 1e-3 a step moves a weight by at
most rate / eps times the change of the gradient.
"""
ROUNDING = 2e-6
"""Largest difference of a weight between such runs.

Gradients are clipped to norm 1, so that another order of sums changes one by about 1e-7 (float32). At rates of up to
3e-3 a step changes a weight by at most 3e-7 more, 6 steps by 2e-6. A full step at that rate is 3e-3.
"""
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def schedule(steps: int, **changes: object) -> dict[str, object]:
    return {"peak_lr": 3e-3, "final_lr": 1e-4, "warmup_steps": min(2, steps - 1), "total_steps": steps, **changes}


def text_config(steps: int = 12, **changes: object) -> dict[str, Any]:
    """A small text-only pre-training on one CPU thread."""
    return {
        "model": MODEL, "sources": [TEXT], "context": CONTEXT, "batch_sequences": 4, "schedule": schedule(steps),
        "precision": "fp32", **changes,
    }  # fmt: skip


def image_config(steps: int = 12, share: float = 0.5, **changes: object) -> dict[str, Any]:
    """The same with captioned images."""
    sources = [{**TEXT, "share": 1 - share}, {"name": "captions", "kind": "captions", "share": share}]
    return text_config(steps, sources=sources, vision=VISION, tokenizer={"name": "tokenizer"}, **changes)


def finetune_config(**changes: object) -> dict[str, Any]:
    return {
        "conversations": {"name": "conversations", "kind": "conversations"}, "tokenizer": {"name": "tokenizer"},
        "epochs": 2, "batch_sequences": 4, "max_length": CONTEXT, "precision": "fp32", **changes,
    }  # fmt: skip


@dataclass(frozen=True)
class World:
    """Data sets below `root`/data and runs below `root`/runs."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def job(
        self, key: str, stage: str, config: Mapping[str, Any], parents: Sequence[JobFile] = (), **settings: object
    ) -> JobFile:
        """Writes a job.json as an attempt would find it."""
        run = self.root / "runs" / stage / key
        run.mkdir(parents=True, exist_ok=True)
        content = {
            "format": 1, "key": key, "stage": stage, "version": 1, "config": dict(config),
            "parents": [{"key": p.key, "stage": p.stage, "run": f"../../{p.stage}/{p.key}"} for p in parents],
            "data": {path.stem: str(path) for path in sorted(self.data.iterdir())},
            "settings": {"log_steps": 2, **settings},
            "paths": {
                "checkpoints": "checkpoints", "metrics": "metrics.jsonl", "result": "result.json",
                "error": "attempts/1/error.json",
            },
        }  # fmt: skip
        (run / "job.json").write_text(json.dumps(content))
        return read_job(run / "job.json")

    def run(
        self, key: str, stage: str, config: Mapping[str, Any], parents: Sequence[JobFile] = (), **settings: object
    ) -> JobFile:
        """Runs a job here, to its end."""
        job = self.job(key, stage, config, parents, **settings)
        assert run_here(job)
        return job


def run_here(job: JobFile, stop: StopFlag | None = None) -> bool:
    return load_stage(job.stage)(job, stop or StopFlag())


STAGES_PROGRAM = ("-m", "stages")


def start(job: JobFile, program: Sequence[str] = STAGES_PROGRAM) -> subprocess.Popen[str]:
    """`python -m stages JOB_JSON` on one thread, or another program of Python's in its stead."""
    command = [sys.executable, *program, str(job.run / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def final_weights(job: JobFile) -> dict[str, torch.Tensor]:
    checkpoint = find_newest_checkpoint(job.checkpoints)
    assert checkpoint is not None
    return checkpoint.read_weights()


def same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_equal_weights(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """To within rounding; for runs with SMOOTH_ADAMW."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=ROUNDING, rtol=0)


def assert_equal_moments(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """To within rounding: to a ten-thousandth of the largest of each tensor, as first and second moments differ in size
    by powers of ten."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, atol=1e-4 * scale, rtol=0)


def result_of(job: JobFile) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(job.result.read_text())
    return content


def metrics_of(job: JobFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


def make_world(root: Path) -> World:
    """Text of 200 sequences in two shards, 24 captioned images, 10 conversations, and their tokenizer."""
    world = World(root)
    write_tokenizer(world.data / "tokenizer.json")
    write_text(world.data / "text", shards=2, sequences=100)
    write_captions(world.data / "captions", 24)
    write_conversations(world.data / "conversations", 10)
    return world


def picture_reader() -> EncoderImageReader:
    spec = resolve_encoder_spec("patches-16-32")
    return EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)


def document_of(source: SampleSource, index: int, position: int = 0) -> Document:
    """A document for which there is room."""
    document = source.read_document(index, position)
    assert document is not None
    return document


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"In: What colour is it?\nOut: a {colour} square" for colour in COLOURS], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def write_text(folder: Path, *, shards: int, sequences: int, length: int = CONTEXT + 1) -> None:
    """Counting sequences: token n is followed by token n + 1."""
    manifest = ""
    for shard in range(shards):
        rows = [[(7 * (shard * sequences + row) + i) % 250 for i in range(length)] for row in range(sequences)]
        members = {f"{row:06d}.json.gz": gzip.compress(json.dumps(ids).encode()) for row, ids in enumerate(rows)}
        write_tar(folder / f"shard-{shard}.tar", members)
        manifest += json.dumps({"shard": f"shard-{shard}", "num_sequences": sequences}) + "\n"
    (folder / "manifest.jsonl").write_text(manifest)


def png(colour: str, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_captions(folder: Path, count: int) -> None:
    members: dict[str, bytes] = {}
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        members[f"{number:05d}.png"] = png(colour)
        members[f"{number:05d}.txt"] = f"a {colour} square{' again' * (number % 3)}".encode()
        members[f"{number:05d}.json"] = json.dumps({"caption": f"it is {colour}"}).encode()
    write_tar(folder / "shard-0.tar", members)


def conversation(number: int) -> dict[str, Any]:
    colour = COLOURS[number % len(COLOURS)]
    turns = ["<image>\nWhat colour is it?", colour, "Sure?", "yes"]
    sides = ["human", "gpt"] * 2
    return {
        "id": str(number),
        "image": f"images/{colour}.png",
        "conversations": [{"from": side, "value": text} for side, text in zip(sides, turns, strict=True)],
    }


def write_conversations(folder: Path, count: int) -> None:
    (folder / "images").mkdir(parents=True)
    for colour in COLOURS:
        (folder / "images" / f"{colour}.png").write_bytes(png(colour))
    (folder / "conversations.json").write_text(json.dumps([conversation(number) for number in range(count)]))
