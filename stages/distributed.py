"""The processes of a job: who this one is, what it computes on, and how it agrees with the others.

A launcher (torchrun, or srun through `jobs.attempt.rank`) starts one process a GPU and sets RANK, WORLD_SIZE, LOCAL_RANK,
MASTER_ADDR and MASTER_PORT. Without them, or with a WORLD_SIZE of 1, a job is one process and does not communicate.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

    from stages.job_file import Settings

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]
"""int64, one dimension."""


class Peers:
    """One process alone. What data sources need to know of the others; see `GlooPeers` for several."""

    rank: int = 0
    size: int = 1

    def gather(self, numbers: Numbers) -> list[Numbers]:
        """Every rank's numbers, in the order of ranks; lengths may differ. All ranks call it equally often."""
        return [numbers]


ALONE = Peers()
"""A job of one process."""


class GlooPeers(Peers):
    """Several processes, over a gloo group that nothing else uses, so that a thread of its own may call `gather`."""

    def __init__(self, group: "ProcessGroup") -> None:
        self._group = group
        self.rank, self.size = group.rank(), group.size()

    def gather(self, numbers: Numbers) -> list[Numbers]:
        """Two exchanges: of the lengths, then of the numbers, padded to the longest."""
        lengths = [int(found[0]) for found in self._exchange(np.array([len(numbers)], dtype=np.int64))]
        padded = np.zeros(max(lengths), dtype=np.int64)
        padded[: len(numbers)] = numbers
        found = self._exchange(padded) if len(padded) else [padded] * self.size
        return [row[:length] for row, length in zip(found, lengths, strict=True)]

    def _exchange(self, numbers: Numbers) -> list[Numbers]:
        import torch
        from torch import distributed

        own = torch.from_numpy(numbers)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(rows, own, group=self._group)
        return [row.numpy() for row in rows]


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of the job."""

    device: "torch.device"
    """What this process computes on."""
    peers: Peers = ALONE
    """For the data; a group of its own."""
    host: "ProcessGroup | None" = None
    """gloo group for the numbers that ranks agree on each step; None for one process."""

    @property
    def rank(self) -> int:
        return self.peers.rank

    @property
    def size(self) -> int:
        return self.peers.size

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes checkpoints, metrics and the result."""
        return self.peers.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all ranks, in float64, equal on each; a NaN or Inf of one rank reaches all. Waits for all ranks."""
        if self.host is None:
            return list(numbers)
        import torch
        from torch import distributed

        summed = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(summed, group=self.host)
        found: list[float] = summed.tolist()
        return found

    def wait(self) -> None:
        """Until every rank is here."""
        self.sum([0.0])


def world_size(environment: Mapping[str, str]) -> int:
    """Processes of the job, as the launcher says. ConfigError if that is no number."""
    given = environment.get("WORLD_SIZE", "")
    if given and not (given.isdecimal() and int(given) > 0):
        raise ConfigError(f"WORLD_SIZE is {given!r}; a launcher such as torchrun sets the number of processes")
    return int(given or 1)


@contextmanager
def open_world(settings: "Settings") -> Iterator[World]:
    """This process's place in the job, connected to the others; the connection ends with the block.

    After an error in the block nobody is waited for: the others notice that this process is gone.
    ConfigError if the launcher's variables are incomplete or there is no GPU where one was asked for.
    """
    from stages.device import compute_device

    if world_size(os.environ) == 1:
        yield World(compute_device(settings.device))
        return
    from torch import distributed

    device = compute_device(settings.device, local_rank())
    timeout = timedelta(minutes=settings.peer_timeout_minutes)
    connect(device, timeout)
    peers, host = (distributed.new_group(backend="gloo", timeout=timeout) for _ in range(2))
    world = World(device, GlooPeers(peers), host)
    yield world
    world.wait()  # the first rank holds the address book of all: it must not leave before the others
    distributed.destroy_process_group()


def local_rank() -> int:
    """This process's number on its node; ConfigError where the launcher did not say."""
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {', '.join(missing)} not set; start the processes "
            "with torchrun, or with srun through jobs.attempt.rank"
        )
    return int(os.environ["LOCAL_RANK"])


def connect(device: "torch.device", timeout: timedelta) -> None:
    """Joins the job's other processes: nccl between GPUs, gloo between CPUs. `timeout`: longest wait for a peer."""
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
        distributed.init_process_group("nccl", timeout=timeout, device_id=device)
    else:
        distributed.init_process_group("gloo", timeout=timeout)
