"""Batches of the two training stages: sequences of a mixture, and examples of a fine-tuning set."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.data.ahead import Ahead
from stages.data.builder import Built, Place
from stages.data.exchange import build_together, own_part
from stages.data.mixture import Mixture
from stages.data.order import shuffled
from stages.data.packing import Batch, MicroBatch, collate
from stages.data.progress import Progress, SequenceCounts, check_bad_samples
from stages.data.sample import BadSampleError, Source
from stages.data.sequence import PackedSequence, join
from stages.data.workers import ClosedError, Workers
from stages.errors import DataError, OtherRankError
from stages.world import ALONE, Peers


class Made(NamedTuple):
    """A batch, and the state of the data after it."""

    batch: Batch
    state: list[dict[str, Any]]


class MixtureBatches:
    """Packed sequences of the context's length (pre-training), of each batch this rank's part.

    The numbers do not depend on how many processes build them, nor on how many ranks share them. `close` ends what was
    started; also a `with` block does.
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
        """`workers`: processes that build ahead of the loop; 0: batches are built when asked for, in this process.

        `prefetch_batches`: how many are ready ahead. `pin`: in page-locked memory, for copies to a GPU.
        """
        self.mixture, self._peers, self._count = mixture, peers, workers
        self._rows = max(1, micro_batch_tokens // mixture.context)
        self._prefetch, self._pin = prefetch_batches, pin
        self._workers: Workers | None = None
        self._ahead: Ahead[Made] | None = None
        self._state = mixture.state()

    @property
    def source_names(self) -> list[str]:
        return [source.name for source in self.mixture.sources]

    @property
    def progress(self) -> list[Progress]:
        """After the batch that was returned last."""
        return [Progress.of(entry) for entry in self._state]

    def next_batch(self) -> Batch:
        """The next global batch. DataError for bad data beyond the limit, or if a worker or another rank has failed."""
        if self._count and self._ahead is None:
            self._workers = Workers(self.mixture.builder, self._count)
            self._ahead = Ahead(self._make, self._prefetch)
        try:
            made = self._ahead.take() if self._ahead is not None else self._make()
        except ClosedError as error:
            raise OtherRankError("another rank has ended; its log says why") from error
        self._state = made.state
        return made.batch

    def state(self) -> list[dict[str, Any]]:
        """For `restore`, as JSON: after the batch that was returned last, whatever was built ahead."""
        return self._state

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.close()
        self.mixture.restore(state)
        self._state = self.mixture.state()

    def close(self) -> None:
        """Ends the thread and the processes; batches that were built ahead are dropped. All ranks are to call it."""
        if self._ahead is None or self._workers is None:
            return
        self._workers.cancel()
        self._ahead.close()
        self._workers.close()
        self._ahead = self._workers = None
        self.mixture.restore(self._state)

    def __enter__(self) -> "MixtureBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _build(self, places: Sequence[Place]) -> list[Built]:
        if self._workers is not None:
            return self._workers.build(places)
        return [self.mixture.builder.build(place) for place in places]

    def _micro_batches(self, sequences: Sequence[PackedSequence]) -> list[MicroBatch]:
        """This rank's sequences, as many at once as the device is given."""
        length = self.mixture.context
        parts = [sequences[start : start + self._rows] for start in range(0, len(sequences), self._rows)]
        return [collate(part, length).pinned() if self._pin else collate(part, length) for part in parts]


class ExampleBatches:
    """`batch_size` examples a step in an order of their own for each epoch, padded to the longest of a micro-batch.

    Batches run on over the end of an epoch. An example that cannot be used is left out of its batch.
    """

    def __init__(
        self, source: Source, *, batch_size: int, seed: int, micro_batch_tokens: int, bad_samples_limit: int
    ) -> None:
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.micro_batch_tokens, self.bad_samples_limit = micro_batch_tokens, bad_samples_limit
        self.progress = [Progress(cursors=[0])]

    @property
    def source_names(self) -> list[str]:
        return [self.source.name]

    def next_batch(self) -> Batch:
        """The next global batch. DataError if none of its examples can be used."""
        progress = self.progress[0]
        first = progress.cursors[0]
        positions = range(first, first + self.batch_size)
        progress.cursors[0] = positions.stop
        examples = [example for position in positions if (example := self.example(position))]
        if not examples:
            raise DataError(f"data set {self.source.name!r}: no usable example among {self.batch_size} in a row")
        for example in examples:
            progress.count(SequenceCounts.of(example))
        # of like length side by side, so that little is padded; a stable sort keeps the order reproducible
        examples.sort(key=lambda example: example.length)
        parts = self.micro_batches(examples)
        return Batch(
            micro_batches=parts,
            targets=sum(example.target_count for example in examples),
            positions=sum(part.tokens.numel() for part in parts),
            images=sum(len(example.pictures) for example in examples),
        )

    def example(self, position: int) -> PackedSequence | None:
        """The example at a position of the run; None, and a note of it, if it cannot be used."""
        index = shuffled(position, self.source.size, self.seed)
        try:
            document = self.source.document(index, position)
        except BadSampleError as error:
            if self.progress[0].note_bad(index):
                print(f"data set {self.source.name!r}: skipped: {error}", file=sys.stderr)
                check_bad_samples(self.source, self.progress[0], self.bad_samples_limit, str(error))
            return None
        return join([document], source=0) if document is not None else None

    def micro_batches(self, examples: Sequence[PackedSequence]) -> list[MicroBatch]:
        """Examples, sorted by length, in parts of at most `micro_batch_tokens` positions (one example at least)."""
        parts: list[MicroBatch] = []
        part: list[PackedSequence] = []
        for example in examples:
            if part and example.length * (len(part) + 1) > self.micro_batch_tokens:
                parts.append(collate(part, part[-1].length))
                part = []
            part.append(example)
        return [*parts, collate(part, part[-1].length)]

    def state(self) -> list[dict[str, Any]]:
        """For `restore`, as JSON."""
        return [progress.state() for progress in self.progress]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.progress = [Progress.of(entry) for entry in state]

    def close(self) -> None:
        """There is nothing to end: one process builds and learns."""
