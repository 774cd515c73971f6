"""Speed of a training step at the paper's shapes on one GPU: tokens a second, share of the GPU's peak, peak memory.

    python benchmarks/train_gpu.py [--models 79m 411m 1.4b] [--steps 10] [--compile] [--profile]

The step is `stages.training.Training.train_step` in bf16 on random tokens that are ready in memory: forward, backward,
clipping, AdamW; no data loader, no checkpoint. Each model gets a process of its own, with the largest micro-batch that
fits. The share of the peak is `sweep.flops.training_flops` over the catalog's figure for the GPU. Without a GPU it runs
on the CPU, which shows that the script works and nothing else; there, ask for little: `--context 128 --sequences 2`.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the packages are found from the root, installed or not

from stages.config import LanguageModel, Optimizer  # noqa: E402
from stages.data.packing import Batch, PackedSequence, collate  # noqa: E402
from stages.data.progress import Progress  # noqa: E402
from stages.device import compute_device  # noqa: E402
from stages.job_file import Settings  # noqa: E402
from stages.metrics import MetricsLog  # noqa: E402
from stages.optimizer import AdamW  # noqa: E402
from stages.training import Training, TrainState  # noqa: E402
from stages.vlm import VLM  # noqa: E402
from sweep.catalog import TERA, load_catalog  # noqa: E402
from sweep.flops import training_flops  # noqa: E402

MICRO_BATCHES = (16, 8, 4, 2, 1)
"""Sequences at once that are tried, until one fits."""
WARM_UP = 3
"""Steps that are not timed: kernels are loaded, memory is taken, code is compiled."""


def main() -> int:
    """Prints the machine and a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["79m", "411m", "1.4b"], choices=sorted(load_catalog().models))
    parser.add_argument("--context", type=int, default=2_048, help="tokens of a sequence (default: 2048)")
    parser.add_argument("--sequences", type=int, default=32, help="of a step, over all micro-batches (default: 32)")
    parser.add_argument("--steps", type=int, default=10, help="that are timed (default: 10)")
    parser.add_argument("--compile", action="store_true", help="torch.compile for each block")
    parser.add_argument("--profile", action="store_true", help="print the dearest operations of one more step")
    parser.add_argument("--micro-batch", type=int, default=0, help=argparse.SUPPRESS)  # a process measures just this
    options = parser.parse_args()
    if options.micro_batch:
        print(json.dumps(measure(options.models[0], options)))
        return 0
    print(f"{machine()}; context {options.context}, {options.sequences} sequences a step, bf16")
    print(f"{'model':8} {'micro-batch':>11} {'tokens/s':>10} {'step s':>8} {'of peak':>8} {'peak GiB':>9}")
    for model in options.models:
        print(row(model, largest(model, options)), flush=True)
    return 0


def machine() -> str:
    """Device and versions."""
    cuda = torch.cuda.is_available()
    name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if cuda else "CPU"
    return f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}"


def row(model: str, found: dict[str, Any] | None) -> str:
    """A line of the table."""
    if found is None:
        return f"{model:8} does not fit"
    share = f"{found['of_peak']:.1%}" if found["of_peak"] else "-"
    speed, memory = found["tokens_per_second"], found["peak_gib"]
    return f"{model:8} {found['micro_batch']:11} {speed:10,.0f} {found['step_seconds']:8.3f} {share:>8} {memory:9.1f}"


def largest(model: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """The measurement with the largest micro-batch that fits into memory, in a fresh process; None if none does."""
    for size in (size for size in MICRO_BATCHES if size <= options.sequences):
        command = [sys.executable, __file__, "--models", model, "--micro-batch", str(size)]
        command += [f"--{name}={getattr(options, name)}" for name in ("context", "sequences", "steps")]
        command += [f"--{name}" for name in ("compile", "profile") if getattr(options, name)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        if found["fits"]:
            return found
    return None


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Times one model with one size of micro-batch in this process."""
    shape = load_catalog().models[model].shape
    batches = RandomBatches(random_batch(shape, options.context, options.sequences, options.micro_batch))
    try:
        seconds = step_seconds(shape, batches, options)
    except torch.OutOfMemoryError:
        return {"fits": False}
    speed = options.sequences * options.context / seconds
    peak = peak_flops()
    return {
        "fits": True,
        "micro_batch": options.micro_batch,
        "step_seconds": seconds,
        "tokens_per_second": speed,
        "of_peak": speed * training_flops(shape, options.context) / peak if peak else None,
        "peak_gib": peak_memory() / 2**30,
    }


def step_seconds(shape: LanguageModel, batches: "RandomBatches", options: argparse.Namespace) -> float:
    """Median of the timed steps."""
    torch.manual_seed(0)
    vlm = VLM(shape).to(compute_device())
    if options.compile:
        for layer in vlm.lm.layers:
            layer.compile()
    state = TrainState(vlm, AdamW(vlm.named_weights(), Optimizer()), batches)
    training = Training(
        last_step=0, rate=lambda _: 1e-4, z_loss=1e-4, gradient_clip=1.0, precision="bf16", settings=Settings(),
        checkpoints=Path(), metrics=MetricsLog(Path()), fixed_state={}, keep_optimizer=False,
    )  # fmt: skip
    times = [timed_step(training, state) for _ in range(WARM_UP + options.steps)]
    if options.profile:
        print_profile(training, state)
    return statistics.median(times[WARM_UP:])


def timed_step(training: Training, state: TrainState) -> float:
    """Wall seconds of a step, the device's work to its end included."""
    started = time.perf_counter()
    training.train_step(state)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def print_profile(training: Training, state: TrainState) -> None:
    """The dearest operations of a step, on stderr."""
    with torch.profiler.profile() as profile:
        timed_step(training, state)
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60), file=sys.stderr)


@dataclass
class RandomBatches:
    """The same batch again and again, so that no loader's time is in the figures (`stages.training.Batches`)."""

    batch: Batch
    source_names: list[str] = field(default_factory=lambda: ["random"])
    progress: list[Progress] = field(default_factory=lambda: [Progress(cursors=[0])])

    def next_batch(self) -> Batch:
        """The batch."""
        return self.batch

    def state(self) -> None:
        """None: there is no position."""

    def restore(self, state: object) -> None:
        """Does nothing."""


def random_batch(shape: LanguageModel, context: int, sequences: int, micro_batch: int) -> Batch:
    """Sequences of random tokens, each position with a target, cut into micro-batches."""
    rng = random.Random(0)
    rows = []
    for _ in range(sequences):
        tokens = [rng.randrange(shape.vocabulary) for _ in range(context + 1)]
        rows.append(PackedSequence(0, tokens[:-1], tokens[1:], [0] * context, samples=1))
    parts = [collate(rows[start : start + micro_batch], context) for start in range(0, sequences, micro_batch)]
    return Batch(parts, targets=sequences * context, positions=sequences * context)


def peak_flops() -> float | None:
    """FLOP/s of this GPU in bf16, from the catalog; None for a device that it does not know."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().lower()
    known = (gpu.peak_tflops for gpu in load_catalog().gpus.values() if gpu.is_gpu and gpu.name in name)
    tflops = next(known, None)
    return tflops * TERA if tflops else None


def peak_memory() -> int:
    """Bytes: what tensors took of the GPU's memory at most; without a GPU, this process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


if __name__ == "__main__":
    sys.exit(main())
