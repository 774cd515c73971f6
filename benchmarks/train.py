"""Speed of training on one CPU thread: tokens per CPU second, and what a process costs before its first step.

    python benchmarks/train.py [--steps 12]

The model is the demo's kind: 192 wide, 4 layers, 2,048 tokens of vocabulary, 2.6 million weights. CPU seconds are those
of whole `python -m stages` processes; throughput is the difference between a long and a short run.
"""

import argparse
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from stages.processor import describe_processor

MODEL = {"d_model": 192, "layers": 4, "heads": 6, "vocabulary": 2_048}
STEP_TOKENS = 4_096


def main() -> int:
    """Prints a line for each precision and context."""
    parser = argparse.ArgumentParser(description="Measure training speed on one CPU thread.")
    parser.add_argument("--steps", type=int, default=12, help="steps of the longer run (default: 12)")
    steps = parser.parse_args().steps
    print(describe_processor())
    with tempfile.TemporaryDirectory() as folder:
        for context in (128, 256):
            write_shard(Path(folder) / f"text-{context}", context)
            for precision in ("bf16", "fp32"):
                short, long = (cpu_seconds(Path(folder), context, precision, count) for count in (1, 1 + steps))
                speed = steps * STEP_TOKENS / (long - short)
                start = short - STEP_TOKENS / speed
                print(f"{precision} context {context}: {speed:,.0f} tokens per CPU second; start {start:.1f} CPU s")
    return 0


def write_shard(folder: Path, context: int) -> None:
    """One shard of random tokens in open_lm's format."""
    rng = random.Random(0)
    folder.mkdir()
    with tarfile.open(folder / "shard-0.tar", "w") as tar:
        for number in range(64):
            tokens = [rng.randrange(MODEL["vocabulary"]) for _ in range(context + 1)]
            content = gzip.compress(json.dumps(tokens).encode())
            entry = tarfile.TarInfo(f"{number:04d}.json.gz")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (folder / "manifest.jsonl").write_text('{"shard": "shard-0", "num_sequences": 64}\n')


def cpu_seconds(folder: Path, context: int, precision: str, steps: int) -> float:
    """CPU seconds of a whole training process of so many steps."""
    run = folder / f"run-{context}-{precision}-{steps}"
    run.mkdir()
    config = {
        "model": MODEL,
        "sources": [{"name": "text", "kind": "text"}],
        "context": context,
        "batch_sequences": STEP_TOKENS // context,
        "schedule": {"peak_lr": 1e-3, "total_steps": steps},
        "precision": precision,
    }
    paths = {"checkpoints": "checkpoints", "metrics": "metrics.jsonl", "result": "result.json", "error": "error.json"}
    data = {"text": str(folder / f"text-{context}")}
    job = {"format": 1, "key": run.name, "stage": "pretrain", "config": config, "data": data, "paths": paths}
    (run / "job.json").write_text(json.dumps(job))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "stages", str(run / "job.json")], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
