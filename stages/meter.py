"""How fast a training runs, and what it takes: the figures of a log line that depend on the machine."""

import resource
from collections.abc import Callable
from dataclasses import dataclass

import torch

GIB = 1 << 30


@dataclass
class Meter:
    """Work and time of this process since the last log line."""

    device: torch.device
    devices: int = 1
    """Processes of the job: each a GPU, or a CPU's share."""
    peak_tflops: float = 0.0
    """Of one device; 0 where that is not known, and then no utilisation is given."""
    flops: Callable[[int, int], float] | None = None
    """FLOPs of so many positions with so many images."""
    tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, tokens: int, images: int, seconds: float, waited: float) -> None:
        """One step of all processes: positions, images, seconds, and how many of them this process waited for data."""
        self.tokens += tokens
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def flush(self) -> dict[str, float]:
        """`tokens_per_second`, `mfu` where the device's peak is known, `data_wait` (a share of the time), and
        `peak_memory_gib` (of this process, from its start on); the meter starts anew."""
        seconds = max(self.seconds, 1e-9)
        found = {"tokens_per_second": self.tokens / seconds}
        if self.peak_tflops and self.flops is not None:
            found["mfu"] = self.flops(self.tokens, self.images) / (seconds * self.devices * self.peak_tflops * 1e12)
        found["data_wait"] = self.waited / seconds
        found["peak_memory_gib"] = peak_memory_gib(self.device)
        self.tokens, self.images, self.seconds, self.waited = 0, 0, 0.0, 0.0
        return found


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that was in use at once: tensors on a GPU; all of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # Linux counts KiB
