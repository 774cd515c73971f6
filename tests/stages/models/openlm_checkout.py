"""Runs a checkout of open_lm (mlfoundations/open_lm) as a process of its own: for golden figures, parity, benchmarks.

The child's interpreter is this one, or OPEN_LM_PYTHON where open_lm needs other packages than we do.
"""

import gzip
import io
import json
import os
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.config import LanguageModel, Optimizer
from stages.schedule import Schedule

SEED = 124


@dataclass(frozen=True)
class Case:
    """A model, its batches and its schedule."""

    name: str
    d_model: int
    layers: int
    heads: int
    vocabulary: int
    context: int
    batch: int
    """Sequences of a step."""
    steps: int
    qk_norm: bool = True
    z_loss: float = 1e-4
    precision: str = "fp32"
    peak_lr: float = 3e-3
    final_lr: float = 3e-5
    warmup: int = 5
    weight_decay: float = 0.033

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(
            d_model=self.d_model, layers=self.layers, heads=self.heads, vocabulary=self.vocabulary, qk_norm=self.qk_norm
        )

    @property
    def schedule(self) -> Schedule:
        return Schedule(peak_lr=self.peak_lr, final_lr=self.final_lr, warmup_steps=self.warmup, total_steps=self.steps)

    @property
    def optimizer(self) -> Optimizer:
        return Optimizer(weight_decay=self.weight_decay)

    def row(self, number: int) -> list[int]:
        """Sequence `number` of the data, context + 1 tokens: a pattern that can be learnt, and no random numbers."""
        return [(31 * number + i * (7 + number % 5) + i * i // 3) % self.vocabulary for i in range(self.context + 1)]

    def render_json(self) -> dict[str, object]:
        return asdict(self)


def write_shard(folder: Path, case: Case) -> None:
    """All steps' sequences in one shard, which open_lm reads in order, with one worker."""
    folder.mkdir(parents=True, exist_ok=True)
    count = case.steps * case.batch
    with tarfile.open(folder / "00000000.tar", "w") as tar:
        for number in range(count):
            content = gzip.compress(json.dumps(case.row(number)).encode(), mtime=0)
            entry = tarfile.TarInfo(f"{number:08d}.json.gz")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (folder / "manifest.jsonl").write_text(json.dumps({"shard": "00000000", "num_sequences": count}) + "\n")


def options(case: Case, folder: Path, **more: object) -> dict[str, object]:
    """open_lm's command line, for a run below `folder`; the model's JSON is written there."""
    model = {
        "hidden_dim": case.d_model, "n_layers": case.layers, "n_heads": case.heads, "seq_len": case.context,
        "vocab_size": case.vocabulary, "post_embed_norm": False, "weight_tying": False,
    }  # fmt: skip
    (folder / f"{case.name}.json").write_text(json.dumps(model))
    return {
        "model": folder / f"{case.name}.json", "dataset-manifest": folder / "data" / "manifest.jsonl",
        "data-key": "json.gz", "train-num-samples": case.steps * case.batch * case.context, "epochs": 1,
        "global-batch-size": case.batch, "workers": 1, "precision": case.precision, "attn-name": "torch_attn",
        **({"qk-norm": True} if case.qk_norm else {}), "model-norm": "gain_only_lp_layer_norm",
        "lr": case.peak_lr, "wd": case.weight_decay, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "warmup": case.warmup,
        "lr-scheduler": "cosine", "lr-cooldown-end": case.final_lr, "grad-clip-norm": 1,
        "z-loss-coefficient": case.z_loss, "log-every-n-steps": 1, "seed": SEED, "logs": folder / "logs",
        "name": case.name, **more,
    }  # fmt: skip


def run_open_lm(checkout: Path, given: Mapping[str, object]) -> float:
    """Runs `open_lm.main` on one thread; CPU seconds of it and its loader. RuntimeError with its last lines."""
    arguments = [
        part for key, value in given.items() for part in (f"--{key}", *([] if value is True else [str(value)]))
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = open_lm_python(checkout, "-m", "open_lm.main", *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    checkpoints = Path(str(given["logs"])) / str(given["name"]) / "checkpoints"
    if not any(checkpoints.glob("epoch_*.pt")):
        raise RuntimeError(f"open_lm wrote no checkpoint: {(done.stdout + done.stderr)[-2_000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def open_lm_python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process that sees the checkout (and what PYTHONPATH already names), on one thread."""
    interpreter = os.environ.get("OPEN_LM_PYTHON", sys.executable)
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        # its optimizer files hold numpy numbers, which torch.load refuses by default; only its own files are read here
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    return subprocess.run([interpreter, *arguments], env=environment, capture_output=True, text=True, check=False)


def logged_losses(run: Path) -> list[float]:
    """The loss of each step, with the four digits that open_lm prints."""
    return [float(loss) for loss in re.findall(r"Train Epoch:.* Loss: ([\d.]+)", (run / "out.log").read_text())]
