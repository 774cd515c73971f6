"""Batches of pre-training: sequences of a mixture."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.data.collate import Batch, MicroBatch, collate
from stages.data.exchange import build_together, own_part
from stages.data.mixture import Mixture
from stages.data.packing import PackedSequence
from stages.data.prepared import Made, PreparedBatches
from stages.distributed import ALONE, Peers


class MixtureBatches(PreparedBatches):
    """Packed sequences of the context's length (pre-training), of each batch this rank's part.

    The numbers do not depend on how many processes build them, nor on how many ranks share them.
    """

    def __init__(
        self,
        mixture: Mixture,
        micro_batch_tokens: int,
        *,
        peers: Peers = ALONE,
        workers: int = 0,
        prefetch_batches: int = 2,
        pin: bool = False,
    ) -> None:
        """`workers`, `prefetch_batches`: see `PreparedBatches`.

        `pin`: in page-locked memory, for copies to a GPU.
        """
        super().__init__(mixture.builder, mixture.state(), workers=workers, prefetch_batches=prefetch_batches)
        self.mixture, self._peers, self._pin = mixture, peers, pin
        self._rows = max(1, micro_batch_tokens // mixture.context)

    @property
    def source_names(self) -> list[str]:
        return [source.name for source in self.mixture.sources]

    def _go_to(self, state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.mixture.restore(state)
        return self.mixture.state()

    def _make(self) -> Made:
        """Plans a batch, builds this rank's part of it, and takes account of what all ranks built."""
        places = self.mixture.plan_batch()
        own = own_part(places, self._peers)
        built, counts = build_together(own, self._build, self._peers)
        self.mixture.note_batch(places, counts, self.mixture.new_bad_samples(own, built))
        sequences = [each.sequence for each in built if each.sequence is not None]
        batch = Batch(
            micro_batches=self._micro_batches(sequences),
            targets=sum(each.targets for each in counts),
            positions=self.mixture.context * len(places),
            images=sum(each.images for each in counts),
        )
        return Made(batch, self.mixture.state())

    def _micro_batches(self, sequences: Sequence[PackedSequence]) -> list[MicroBatch]:
        """This rank's sequences, as many at once as the device is given."""
        length = self.mixture.context
        parts = [sequences[start : start + self._rows] for start in range(0, len(sequences), self._rows)]
        return [collate(part, length).pinned() if self._pin else collate(part, length) for part in parts]
