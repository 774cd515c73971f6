"""Where a stage computes, and in what precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from stages.errors import ConfigError


def compute_device(asked: str = "auto", local_rank: int = 0) -> torch.device:
    """Where this process computes: "cpu", "cuda", or "auto", which is the GPU where there is one.

    Several processes of a node take a GPU each, by their number on the node. Threads follow OMP_NUM_THREADS (torch's
    own rule). ConfigError for "cuda" without a GPU, and where a node has fewer GPUs than processes.
    """
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("settings.device is cuda and torch finds no GPU here; ask for one, or set device: auto")
    if local_rank >= (count := torch.cuda.device_count()):
        raise ConfigError(f"process {local_rank + 1} of a node with {count} GPUs: start one process for each GPU")
    return torch.device("cuda", local_rank)


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


def loss_chunk_tokens(given: int, device: torch.device) -> int:
    """Positions whose logits are in memory at once, where a job does not say (`given` is -1); 0: all.

    With 50,000 tokens, 512 positions' logits are 100 MB: on a CPU that is half as fast again as all of 2,048 positions.
    """
    return given if given >= 0 else (512 if device.type == "cpu" else 2_048)
