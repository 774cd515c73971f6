"""Sources that compute their samples: a hundred thousand a few seconds. Nothing here loads torch."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from stages.data.order import hash_numbers
from stages.data.packing import BuiltSequence, SequenceCounts, SequenceStart
from stages.data.sample import BadSampleError, Document
from stages.vision.image_input import ImageInput

CONTEXT = 64
IMAGE_TOKENS = 4


class Texts:
    """Full sequences, as token shards give them."""

    def __init__(self, name: str = "text", size: int = 500, shards: int = 5) -> None:
        self.name, self.size, self.shard_sizes = name, size, cut(size, shards)

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:  # noqa: ARG002 - a source's form
        tokens = np.full(CONTEXT + 1, index, dtype=np.int64)
        return Document(tokens, np.ones(CONTEXT + 1, dtype=np.bool_)) if room is None or room >= CONTEXT else None

    def prefetch(self, shards: Sequence[int]) -> None:
        pass


class Pairs:
    """Four image tokens and 3 to 22 words; samples whose number is in `bad` cannot be used."""

    def __init__(self, name: str = "captions", size: int = 300, bad: tuple[int, ...] = (), shards: int = 7) -> None:
        self.name, self.size, self.bad, self.shard_sizes = name, size, bad, cut(size, shards)

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:  # noqa: ARG002 - a source's form
        if index in self.bad:
            raise BadSampleError(f"sample {index} is bad")
        words = 3 + hash_numbers(index) % 20
        if room is not None and room < IMAGE_TOKENS + words - 1:
            return None
        return Document([index] * words, [True] * words, ImageInput(f"{index:064x}"), IMAGE_TOKENS)

    def prefetch(self, shards: Sequence[int]) -> None:
        pass


class Nothing:
    """A packer of no sequences."""

    def build(self, start: SequenceStart) -> BuiltSequence:  # noqa: ARG002 - a packer's form
        return BuiltSequence(None, SequenceCounts(0, 0, 0, 0, 0, next_cursor=0), {})


def cut(size: int, shards: int) -> list[int]:
    """Sizes of shards that are not equal."""
    bounds = [size * number * number // (shards * shards) for number in range(shards + 1)]
    return [after - before for before, after in pairwise(bounds)]
