"""Where a stage computes, and in what precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def compute_device() -> torch.device:
    """The GPU when there is one, else the CPU. Threads follow OMP_NUM_THREADS (torch's own rule)."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16: matrix products in bfloat16 on float32 weights; fp32: nothing is changed."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def micro_batch_tokens(given: int, device: torch.device) -> int:
    """Positions that go through the model at once, where a job does not say (`given` is 0).

    On a CPU a small part stays in the cache; a GPU needs a large one to be busy.
    """
    return given or (2_048 if device.type == "cpu" else 16_384)
