"""Which examples each batch of a fine-tune takes, from the seed and the batch's number alone: nothing to store."""

from collections.abc import Sequence

import numpy as np

from stages.data.order import permuted

BATCHES = 2
"""Number of the permutation of an epoch's batches, beside those of examples with an image (0) and without (1)."""


class ExampleOrder:
    """Epochs in which each example comes once, in batches of examples with an image or of examples without.

    Never both in a batch, as Prismatic's split-modality sampler has it. Each epoch has an order of its own for each of
    the two kinds, and for the batches. Where `batch_size` does not divide a kind, its batches are of almost equal
    size, none larger: Prismatic fills up the last one with examples that it has seen, and so passes over some twice.
    """

    def __init__(self, with_image: Sequence[bool], *, batch_size: int, seed: int) -> None:
        """`with_image`: whether each example has one; there is one example at least."""
        marks = np.asarray(with_image, dtype=np.bool_)
        self._kinds = [np.flatnonzero(marks), np.flatnonzero(~marks)]
        self._batches = [-(-len(kind) // batch_size) for kind in self._kinds]
        self._seed = seed

    @property
    def batches_of_an_epoch(self) -> int:
        """Optimizer steps of a pass over all examples."""
        return sum(self._batches)

    def batch(self, number: int) -> list[int]:
        """The examples of batch `number`, counted through all epochs; all with an image, or none."""
        epoch, place = divmod(number, self.batches_of_an_epoch)
        place = permuted(place, self.batches_of_an_epoch, self._seed, epoch, BATCHES)
        kind = int(place >= self._batches[0])
        place -= kind * self._batches[0]
        examples, batches = self._kinds[kind], self._batches[kind]
        first, end = (len(examples) * bound // batches for bound in (place, place + 1))
        return [int(examples[permuted(at, len(examples), self._seed, epoch, kind)]) for at in range(first, end)]
