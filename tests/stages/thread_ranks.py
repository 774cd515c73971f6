"""Ranks as threads of one process: they talk to each other as processes do, and a test sees into all of them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import numpy as np
import torch

from stages.distributed import Communicator, DistributedContext, Numbers

Result = TypeVar("Result")
PATIENCE_S = 60


@dataclass
class Room:
    """Where the ranks meet."""

    size: int
    said: list[Numbers] = field(init=False)

    def __post_init__(self) -> None:
        self.said = [np.zeros(0, dtype=np.int64)] * self.size
        self.barrier = Barrier(self.size, timeout=PATIENCE_S)


class ThreadPeers(Communicator):
    """One rank of a room."""

    def __init__(self, room: Room, rank: int) -> None:
        self._room = room
        self.rank, self.size = rank, room.size

    def gather(self, numbers: Numbers) -> list[Numbers]:
        self._room.said[self.rank] = numbers
        self._room.barrier.wait()
        found = list(self._room.said)
        self._room.barrier.wait()
        return found


class ThreadWorld(DistributedContext):
    """Sums over its peers."""

    def all_reduce_sum(self, numbers: Sequence[float] | torch.Tensor) -> list[float]:
        rows = self.peers.gather(np.array(numbers, dtype=np.float64).view(np.int64))
        total: list[float] = np.sum([row.view(np.float64) for row in rows], axis=0).tolist()
        return total


def on_threads(size: int, work: Callable[[DistributedContext], Result]) -> list[Result]:
    """What `work` gives on each rank; the first error of one that does not wait for another."""
    room = Room(size)
    worlds = [ThreadWorld(torch.device("cpu"), ThreadPeers(room, rank)) for rank in range(size)]

    def kept(world: DistributedContext) -> Result:
        try:
            return work(world)
        except BaseException:
            room.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(kept, world) for world in worlds]
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
