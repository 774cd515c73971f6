"""Evaluation on several processes: what each computes of a whole, and how all come to know all of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from stages.distributed import Peers, World
from stages.stop import StopFlag

Batch = TypeVar("Batch")

BYTES = 8
"""Of one of the numbers that peers exchange."""


def shared(
    batches: Sequence[Batch], compute: Callable[[Batch], Mapping[int, Sequence[int]]], peers: Peers
) -> dict[int, Sequence[int]]:
    """What `compute` gives for all batches: whole numbers, any count, under an item's number.

    All ranks call it with equal batches. They are dealt out whole: the answers of several processes are those of one,
    bit by bit.
    """
    found: dict[int, Sequence[int]] = {}
    for batch in batches[peers.rank :: peers.size]:
        found |= compute(batch)
    if peers.size == 1:
        return found
    flat = [number for item, values in found.items() for number in (item, len(values), *values)]
    answers: dict[int, Sequence[int]] = {}
    for part in peers.gather(np.array(flat, dtype=np.int64)):
        numbers, place = part.tolist(), 0
        while place < len(numbers):
            item, count = numbers[place : place + 2]
            answers[item] = numbers[place + 2 : place + 2 + count]
            place += 2 + count
    return answers


def gathered(value: Any, peers: Peers) -> list[Any]:
    """Every rank's value, which JSON can hold, in the order of ranks. All ranks call it equally often."""
    if peers.size == 1:
        return [value]
    content = json.dumps(value).encode()
    padded = content + b" " * (-len(content) % BYTES)
    return [json.loads(part.tobytes()) for part in peers.gather(np.frombuffer(padded, dtype=np.int64))]


def asked_to_stop(stop: StopFlag, world: World) -> bool:
    """Whether any rank was asked to stop, so that all stop at the same place. Waits for all ranks."""
    return world.sum([float(stop.requested)])[0] > 0
