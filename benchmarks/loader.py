"""Speed of the training data alone: tokens of text and captioned images a second, for several numbers of workers.

    python benchmarks/loader.py [--seconds 10] [--workers 0 1 2]

Text: open_lm shards of 2,049 random ids of a vocabulary of 50,432, json.gz, context 2,048, batches of 256 sequences.
Captions: JPEG images of 512 x 384 with a caption of about 20 words, decoded and resized to 384 x 384, context 1,024 of
which 729 are the image's. Shards lie in the system's temporary folder and in the page cache: what is measured is the
processor. The start of the workers is left out.
"""

import argparse
import gzip
import io
import json
import os
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from stages.data.batches import BatchLoader
from stages.data.captions import Captions
from stages.data.collate import FixedLengthCollator
from stages.data.image_reader import EncoderImageReader
from stages.data.mixture import Mixture
from stages.data.sample import SampleSource
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.processor import describe_processor
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform

VOCABULARY = 50_432
SHARDS, SEQUENCES, PICTURES = 4, 512, 64
ENCODER = "siglip-so400m-14-384"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measure the speed of the data loader alone.")
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement (default: 10)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes (default: 0 1 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "text")
        write_captions(folder / "captions")
        print(describe_processor())
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print("| workers | text, tokens/s | captions, samples/s |\n|---|---|---|")
        for workers in options.workers:
            text = rate(text_source(folder / "text"), 2_048, 256, workers, options.seconds)
            captions = rate(caption_source(folder / "captions"), 1_024, 32, workers, options.seconds)
            print(f"| {workers} | {text[0]:,.0f} | {captions[1]:,.1f} |", flush=True)
    return 0


def rate(source: SampleSource, context: int, lanes: int, workers: int, seconds: float) -> tuple[float, float]:
    """Positions and samples a second, after the first two batches."""
    mixture = Mixture([source], [1.0], by="tokens", context=context, stripes=lanes, seed=0, bad_samples_limit=0)
    with BatchLoader(mixture, FixedLengthCollator(context, 16_384), workers=workers) as batches:
        for _ in range(2):
            batches.take_batch()
        before, started = batches.state.sources[0], time.perf_counter()
        while (taken := time.perf_counter() - started) < seconds:
            batches.take_batch()
        after = batches.state.sources[0]
    return (after.tokens - before.tokens) / taken, (after.samples - before.samples) / taken


def text_source(folder: Path) -> SampleSource:
    """Token shards."""
    return TokenShards("text", folder, context=2_048, vocabulary=VOCABULARY, seed=0)


def caption_source(folder: Path) -> SampleSource:
    """Captioned images for SigLIP at 384 pixels."""
    spec = resolve_encoder_spec(ENCODER)
    images = EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)
    tokenizer = TextTokenizer(folder / "tokenizer.json", VOCABULARY)
    return Captions("captions", folder, field="", tokenizer=tokenizer, images=images)


def write_text(folder: Path) -> None:
    """Shards of random tokens in open_lm's format."""
    rng = random.Random(0)

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(SEQUENCES):
            ids = [rng.randrange(VOCABULARY) for _ in range(2_049)]
            yield f"{number:05d}.json.gz", gzip.compress(json.dumps(ids).encode())

    write_shards(folder, members, SEQUENCES)


def write_captions(folder: Path) -> None:
    """Shards of JPEG images with detail in them, and captions of random words; their tokenizer beside them."""
    from PIL import Image

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2_000)]

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(PICTURES):
            small = Image.frombytes("RGB", (64, 48), rng.randbytes(64 * 48 * 3))
            buffer = io.BytesIO()
            small.resize((512, 384)).save(buffer, "JPEG", quality=90)
            yield f"{number:05d}.jpg", buffer.getvalue()
            yield f"{number:05d}.txt", " ".join(rng.choices(words, k=20)).encode()

    write_shards(folder, members, PICTURES)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=8_192, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_shards(folder: Path, members: Callable[[], Iterator[tuple[str, bytes]]], samples: int) -> None:
    """Tars of what `members` gives, and their manifest."""
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:08d}.tar", "w") as tar:
            for name, content in members():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    lines = [json.dumps({"shard": f"{shard:08d}", "num_sequences": samples}) for shard in range(SHARDS)]
    (folder / "manifest.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
