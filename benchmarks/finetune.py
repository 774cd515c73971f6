"""A fine-tune's tokens per CPU second beside a pre-training's, at one shape and in one run, on one CPU thread.

    python benchmarks/finetune.py [--steps 12] [--repeats 3]

The model is that of train.py, 2.6 million weights. Pre-training takes text, and images (64 positions each) with
captions; fine-tuning takes conversations of the same length, without and with images. Tokens are the positions that go
through the model, padding left out. CPU seconds are those of whole `python -m stages` processes; a speed is the
difference between a long and a short run.
"""

import argparse
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.train import MODEL, STEP_TOKENS, write_shard  # noqa: E402 - found from the root
from stages.processor import describe_processor  # noqa: E402 - found from the root

STAGES = ("pretrain", "finetune")
CONTEXT = 256
SEQUENCES = STEP_TOKENS // CONTEXT
VISION = {"encoder": "patches-8-64", "projector": "gelu-mlp"}
IMAGE_TOKENS = 64
TURN_TOKENS = len("In: \nOut: ") + 1
"""Of a question and its answer, besides their texts: the template's words and the end-of-text token."""
LETTERS = "abcdefgh"
"""Each a token of its own, so that a text is as long as it looks."""


def main() -> int:
    """Prints a line for each of the four."""
    parser = argparse.ArgumentParser(description="Measure fine-tuning beside pre-training on one CPU thread.")
    parser.add_argument("--steps", type=int, default=12, help="steps of the longer run (default: 12)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turn; the median counts (default: 3)")
    given = parser.parse_args()
    steps, repeats = given.steps, given.repeats
    print(describe_processor())
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), steps)
        for images in (False, True):
            pairs = [[bench.speed(stage, images=images) for stage in STAGES] for _ in range(repeats)]
            trained, tuned = (median(column) for column in zip(*pairs, strict=True))
            kind = "with images" if images else "text"
            print(
                f"{kind}: pretrain {trained:,.0f}, finetune {tuned:,.0f} tokens per CPU second: {tuned / trained:.2f}"
            )
    return 0


class Bench:
    """The data below a folder, and runs of either stage on them."""

    def __init__(self, root: Path, steps: int) -> None:
        self.root, self.steps, self.numbers = root, steps, count()
        write_shard(root / "text", CONTEXT)
        write_tokenizer(root / "tokenizer.json")
        write_captions(root / "captions", 4 * SEQUENCES)
        for images in (False, True):
            write_conversations(root / f"talks-{images}", 4 * SEQUENCES, images=images)
        self.data = {path.stem: str(path) for path in root.iterdir()}
        self.parents = {images: self.run("pretrain", images=images, steps=1)[0] for images in (False, True)}

    def speed(self, stage: str, *, images: bool) -> float:
        """Tokens per CPU second of all but the start."""
        _, short, few = self.run(stage, images=images, steps=4)
        _, long, many = self.run(stage, images=images, steps=4 + self.steps)
        return (many - few) / (long - short)

    def run(self, stage: str, *, images: bool, steps: int) -> tuple[Path, float, int]:
        """The folder, CPU seconds and tokens of a whole run."""
        run = self.root / "runs" / stage / str(next(self.numbers))
        run.mkdir(parents=True)
        paths = {name: f"{name}.json" for name in ("result", "error")}
        paths |= {"checkpoints": "checkpoints", "metrics": "metrics.jsonl"}
        tuning = stage == "finetune"
        parent = {"key": "base", "stage": "pretrain", "run": str(self.parents[images])} if tuning else None
        job: dict[str, Any] = {
            "format": 1, "key": run.name, "stage": stage, "data": self.data, "paths": paths,
            "config": finetune(images, steps) if tuning else pretrain(images, steps),
            "parents": [parent] if parent else [],
        }  # fmt: skip
        (run / "job.json").write_text(json.dumps(job))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "stages", str(run / "job.json")], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads((run / "result.json").read_text())
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return run, seconds, result["tokens"] - result["padding"]


def pretrain(images: bool, steps: int) -> dict[str, Any]:
    """Text, or pairs of an image and a caption, one to a sequence."""
    source = {"name": "captions", "kind": "captions"} if images else {"name": "text", "kind": "text"}
    return {
        "model": MODEL, "sources": [source], "context": CONTEXT, "batch_sequences": SEQUENCES, "precision": "fp32",
        "schedule": {"peak_lr": 1e-3, "total_steps": steps}, "vision": VISION, "tokenizer": {"name": "tokenizer"},
    }  # fmt: skip


def finetune(images: bool, steps: int) -> dict[str, Any]:
    """Batches of as many conversations as a pre-training's batch has sequences; four to an epoch."""
    return {
        "conversations": {"name": f"talks-{images}", "kind": "conversations"}, "tokenizer": {"name": "tokenizer"},
        "epochs": steps // 4, "batch_sequences": SEQUENCES, "max_length": 2 * CONTEXT, "precision": "fp32",
    }  # fmt: skip


def write_tokenizer(path: Path) -> None:
    """A byte-level one without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))


def letters(rng: random.Random, length: int) -> str:
    """A text of so many tokens."""
    return "".join(rng.choice(LETTERS) for _ in range(length))


def picture(rng: random.Random) -> bytes:
    """A PNG of 64 x 64 pixels of any colours."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("RGB", (64, 64), rng.randbytes(3 * 64 * 64)).save(buffer, "PNG")
    return buffer.getvalue()


def write_captions(folder: Path, pairs: int) -> None:
    """Pairs that take a whole sequence each."""
    rng = random.Random(0)
    folder.mkdir()
    with tarfile.open(folder / "shard-0.tar", "w") as tar:
        for number in range(pairs):
            members = {"png": picture(rng), "txt": letters(rng, CONTEXT - IMAGE_TOKENS).encode()}
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{number:04d}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def write_conversations(folder: Path, talks: int, *, images: bool) -> None:
    """Two questions and two answers each, of CONTEXT positions together."""
    rng = random.Random(1)
    folder.mkdir()
    records = []
    # the last token is a target only
    free = CONTEXT + 1 - (IMAGE_TOKENS if images else 0) - 2 * TURN_TOKENS
    lengths = [free * (part + 1) // 4 - free * part // 4 for part in range(4)]
    for number in range(talks):
        sides = zip(("human", "gpt") * 2, lengths, strict=True)
        turns = [{"from": side, "value": letters(rng, length)} for side, length in sides]
        record: dict[str, Any] = {"id": str(number), "conversations": turns}
        if images:
            record["image"] = f"{number}.png"
            (folder / f"{number}.png").write_bytes(picture(rng))
        records.append(record)
    (folder / "talks.json").write_text(json.dumps(records))


if __name__ == "__main__":
    sys.exit(main())
