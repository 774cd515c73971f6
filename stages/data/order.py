"""The order of samples as a function of (seed, position) alone: nothing to store, nothing to replay."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

MASK = (1 << 64) - 1
ROUNDS = 4
EPOCHS_KEPT = 3
"""Epochs whose order of shards is in memory: stripes of one source are at most a little apart."""


def hash_numbers(*numbers: int, state: int = 0) -> int:
    """A well-mixed 64-bit number of several (splitmix64's finaliser, chained).

    `state`: what the numbers before these gave; mix(1, 2, 3) is mix(2, 3, state=mix(1)).
    """
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def permute_index(place: int, size: int, *key: int) -> int:
    """Where a random permutation of 0..size-1, one for each key, puts `place`.

    A Feistel network of a power of four at least `size`, walked until it lands below `size`: constant memory for any
    size, and any place at once.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    state = hash_numbers(*key)
    x = place
    while True:
        left, right = x >> half, x & low
        for step in range(ROUNDS):
            left, right = right, left ^ (hash_numbers(step, right, state=state) & low)
        x = left << half | right
        if x < size:
            return x


@dataclass(frozen=True, slots=True)
class EpochOrder:
    """One pass: the shards in their order, cut into windows."""

    shards: Sequence[int]
    ends: Sequence[int]
    """Places of the pass up to the end of each of `shards`."""
    window_ends: Sequence[int]


class ShardOrder:
    """An endless stream of passes through all samples, in which neighbours come from few shards.

    In each pass the shards come in a new random order, cut into windows of `window` shards; all samples of a window
    are shuffled together. A reader of consecutive positions so has no more than two windows' shards open, and every
    pass holds each sample once. Any position is found at once; a pass costs some milliseconds per thousand shards.
    """

    def __init__(self, sizes: Sequence[int], *, window: int, seed: int) -> None:
        """`sizes`: samples of each shard, numbered through in this order; some may be 0, not all."""
        self.size, self._sizes, self._window, self._seed = sum(sizes), list(sizes), window, seed
        self._firsts = [0, *accumulate(sizes)]
        self._epochs: OrderedDict[int, EpochOrder] = OrderedDict()

    def compute_sample(self, position: int) -> int:
        """The number of the sample at `position`."""
        epoch, place = divmod(position, self.size)
        order = self._epoch(epoch)
        number = bisect_right(order.window_ends, place)
        first = order.window_ends[number - 1] if number else 0
        place = first + permute_index(place - first, order.window_ends[number] - first, self._seed, epoch, number)
        slot = bisect_right(order.ends, place)
        return self._firsts[order.shards[slot]] + place - (order.ends[slot - 1] if slot else 0)

    def compute_window(self, position: int) -> int:
        """The number of the window at `position`, counted through all passes."""
        epoch, place = divmod(position, self.size)
        order = self._epoch(epoch)
        return epoch * len(order.window_ends) + bisect_right(order.window_ends, place)

    def list_window_shards(self, number: int) -> Sequence[int]:
        """The shards of a window of that number."""
        epoch, number = divmod(number, -(-len(self._sizes) // self._window))
        return self._epoch(epoch).shards[number * self._window : (number + 1) * self._window]

    def _epoch(self, epoch: int) -> EpochOrder:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._new_epoch(epoch)
            if len(self._epochs) > EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _new_epoch(self, epoch: int) -> EpochOrder:
        import numpy as np  # here: what counts samples on a login node starts without it

        # a sort by hash, as the shuffles of numpy and Python may change from one version to the next
        hashes = np.array(
            [hash_numbers(self._seed, epoch, shard) for shard in range(len(self._sizes))], dtype=np.uint64
        )
        shards = np.argsort(hashes, kind="stable").tolist()
        ends = list(accumulate(self._sizes[shard] for shard in shards))
        return EpochOrder(shards, ends, [*ends[self._window - 1 : -1 : self._window], ends[-1]])


# Which examples each batch of a fine-tune takes, from the seed and the batch's number alone: nothing to store.

BATCHES = 2
"""Number of the permutation of an epoch's batches, beside those of examples with an image (0) and without (1)."""


# Why: docs/decisions.md, D42
class ExampleOrder:
    """Epochs in which each example comes once, in batches of examples with an image or of examples without.

    Never both in a batch, as Prismatic's split-modality sampler has it. Each epoch has an order of its own for each of
    the two kinds, and for the batches. Where `batch_size` does not divide a kind, its batches are of almost equal
    size, none larger: Prismatic fills up the last one with examples that it has seen, and so passes over some twice.
    """

    def __init__(self, with_image: Sequence[bool], *, batch_size: int, seed: int) -> None:
        """`with_image`: whether each example has one; there is one example at least."""
        import numpy as np

        marks = np.asarray(with_image, dtype=np.bool_)
        self._kinds = [np.flatnonzero(marks), np.flatnonzero(~marks)]
        self._batches = [-(-len(kind) // batch_size) for kind in self._kinds]
        self._seed = seed

    @property
    def batches_per_epoch(self) -> int:
        """Optimizer steps of a pass over all examples."""
        return sum(self._batches)

    def select_examples(self, number: int) -> list[int]:
        """The examples of batch `number`, counted through all epochs; all with an image, or none."""
        epoch, place = divmod(number, self.batches_per_epoch)
        place = permute_index(place, self.batches_per_epoch, self._seed, epoch, BATCHES)
        kind = int(place >= self._batches[0])
        place -= kind * self._batches[0]
        examples, batches = self._kinds[kind], self._batches[kind]
        first, end = (len(examples) * bound // batches for bound in (place, place + 1))
        return [int(examples[permute_index(at, len(examples), self._seed, epoch, kind)]) for at in range(first, end)]
