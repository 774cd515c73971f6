"""Speed of `sweep data text`: tokens a second from .jsonl to finished shards, with one process and with two.

    python benchmarks/token_shards.py [--megabytes 50] [--workers 1 2]

The text is made of paragraphs of Python's own documentation in random order; the tokenizer is a byte-level BPE of 8,000
tokens, trained on a part of it. For comparison: what the `tokenizers` package alone takes on one core, in memory.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.demo.text import PACKAGES, collect_documents
from stages.processor import describe_processor

VOCABULARY = 8_000
TRAINED_ON_BYTES = 4_000_000


def main() -> int:
    """Prints a line for each number of processes."""
    parser = argparse.ArgumentParser(description="Measure the making of token shards.")
    parser.add_argument("--megabytes", type=int, default=50, help="of text (default: 50)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes (default: 1 2)")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(describe_processor())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write_text(folder / "text.jsonl", options.megabytes * 1_000_000)
        tokenizer = train(folder / "tokenizer.json", texts)
        print(f"tokenizers alone: {encoding_speed(tokenizer, texts):,.0f} tokens per CPU second")
        for workers in options.workers:
            measure(folder, workers)
    return 0


def write_text(path: Path, size: int) -> list[str]:
    """Documents of 1 to 30 paragraphs, `size` bytes of them."""
    rng = random.Random(0)
    paragraphs = [
        part for document in collect_documents(PACKAGES) for part in document.text.split("\n\n") if part.strip()
    ]
    texts: list[str] = []
    written = 0
    with path.open("w") as file:
        while written < size:
            texts.append("\n\n".join(rng.choices(paragraphs, k=rng.randint(1, 30))))
            written += file.write(json.dumps({"text": texts[-1]}) + "\n")
    return texts


def train(path: Path, texts: list[str]) -> Tokenizer:
    """A byte-level BPE."""
    part = texts[: max(1, round(len(texts) * TRAINED_ON_BYTES / sum(map(len, texts))))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(part, trainer)
    tokenizer.save(str(path))
    return tokenizer


def encoding_speed(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Tokens per CPU second of the package on a fifth of the text."""
    part = texts[: len(texts) // 5]
    started, tokens = time.process_time(), 0
    for first in range(0, len(part), 256):
        tokens += sum(len(one.ids) for one in tokenizer.encode_batch_fast(part[first : first + 256]))
    return tokens / (time.process_time() - started)


def measure(folder: Path, workers: int) -> None:
    """One whole run of the program: start, both passes, finished shards on the disk."""
    out = folder / f"out-{workers}"
    command = [sys.executable, "-m", "stages.prepare", "text", f"{folder}/text.jsonl", f"--out={out}"]
    command += [f"--tokenizer={folder}/tokenizer.json", f"--workers={workers}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    counts = json.loads((out / "dataset.json").read_text())["counts"]
    tokens, megabytes = counts["tokens"], counts["text_bytes"] / 1e6
    print(
        f"{workers} processes: {tokens / wall:,.0f} tokens/s, {tokens / cpu:,.0f} per CPU second; {megabytes:.0f} MB to"
        f" {tokens / 1e6:.1f}M tokens in {wall:.1f} s, {cpu:.1f} CPU s"
    )


if __name__ == "__main__":
    sys.exit(main())
