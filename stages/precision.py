"""Which devices compute in bfloat16 by themselves. torch is loaded only where a GPU is asked about."""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_FACTS = Path("/proc/cpuinfo")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Of a processor with products in bfloat16: x86 with AVX-512 or AMX, and ARM's own word."""
FLAG_LINES = ("flags", "Features")
BF16_CAPABILITY = (8, 0)
"""The compute capability of Ampere, the first GPUs that have it."""


@cache
def has_cpu_bf16(facts: Path = CPU_FACTS) -> bool:
    """Whether this machine's processor has products in bfloat16; False where it does not say."""
    try:
        lines = facts.read_text().splitlines()
    except OSError:
        return False
    found = next((line for line in lines if line.startswith(FLAG_LINES)), "")
    return not BF16_FLAGS.isdisjoint(found.partition(":")[2].split())


def has_device_bf16(device: "torch.device") -> bool:
    """The same of the device that a job computes on."""
    if device.type != "cuda":
        return has_cpu_bf16()
    import torch

    return torch.cuda.get_device_capability(device) >= BF16_CAPABILITY


def report_slow_precision(precision: str, device: "torch.device") -> None:
    """A line on stderr where `precision` is bf16 and the device only imitates it: the numbers hold, and it is slow."""
    if precision == "bf16" and not has_device_bf16(device):
        print(
            f"precision bf16 on {device.type}: it has no products in bfloat16 and imitates them, several times as slow "
            "as fp32; take a device that has them, or set precision: auto or fp32, which are other numbers",
            file=sys.stderr,
        )
