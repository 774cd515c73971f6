"""The losses of a small run on the device, step by step, beside those of the CPU in float32.

All runs have the same weights at first, and the same batches of text and packed captions. Never run on a GPU: float32
and compiled bf16. The CPU half compares the CPU's bf16 with its float32.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.gpu_check.parts import Check, Row
from tests.stages.training.training_case import World, image_config, make_world, metrics_of

STEPS = 60
# On a CPU another order of sums changes a loss by 1e-6 in 60 steps of float32, and bf16 by 0.5 %. On a GPU exponentials
# and products round otherwise, too; a product in TF32, which nobody asked for, would change a loss by a thousandth.
LARGEST_APART = {"fp32": 1e-4, "bf16": 0.02}
"""Of a step's loss, as a share of the CPU's float32 loss."""


def measure(check: Check) -> Iterator[Row]:
    """A row for each precision."""
    world = make_world(check.folder)
    wanted = run_losses(world, "cpu-fp32", "fp32", device="cpu", compile=False)
    kinds = [("bf16", False)]
    if check.on_gpu:
        kinds = [("fp32", False), ("bf16", False), ("bf16", True)]
    for precision, compiled in kinds:
        name = f"{precision}, {'compiled' if compiled else 'eager'}"
        found = run_losses(world, name.replace(", ", "-"), precision, device=check.device, compile=compiled)
        yield compare_losses(name, found, wanted, LARGEST_APART[precision])


def run_losses(world: World, key: str, precision: str, **settings: Any) -> Sequence[float]:
    """The loss of each step of a run that learns to count and to name colours."""
    job = world.run(key, "pretrain", image_config(STEPS, precision=precision), log_steps=1, **settings)
    return [line["loss"] for line in metrics_of(job)]


def compare_losses(name: str, found: Sequence[float], wanted: Sequence[float], largest: float) -> Row:
    """Passed where no step is further apart than `largest`, and the losses fall as the other run's do."""
    apart = [abs(one - other) / other for one, other in zip(found, wanted, strict=True)]
    worst = max(apart)
    step = apart.index(worst) + 1
    return Row(
        name=name,
        passed=worst <= largest,
        reason=""
        if worst <= largest
        else f"step {step}: loss {found[step - 1]:.4f}, on the CPU {wanted[step - 1]:.4f}",
        figures={
            "steps": len(found),
            "first_loss": found[0],
            "last_loss": found[-1],
            "last_loss_cpu": wanted[-1],
            "largest_relative_difference": worst,
            "allowed_relative_difference": largest,
        },
    )
