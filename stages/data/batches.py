"""Batches of the two training stages: sequences of a mixture, and examples of a fine-tuning set."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.data.mixture import Mixture
from stages.data.order import shuffled
from stages.data.packing import Batch, MicroBatch, PackedSequence, collate, count_targets
from stages.data.progress import Progress, check_bad_samples
from stages.data.sample import BadSampleError, Source
from stages.errors import DataError


class MixtureBatches:
    """Packed sequences of the context's length (pre-training)."""

    def __init__(self, mixture: Mixture, micro_batch_tokens: int) -> None:
        self.mixture = mixture
        self._rows = max(1, micro_batch_tokens // mixture.context)

    @property
    def source_names(self) -> list[str]:
        return [source.name for source in self.mixture.sources]

    @property
    def progress(self) -> list[Progress]:
        return self.mixture.progress

    def next_batch(self) -> Batch:
        """The next global batch."""
        sequences, length = self.mixture.next_batch(), self.mixture.context
        parts = [sequences[start : start + self._rows] for start in range(0, len(sequences), self._rows)]
        return Batch([collate(part, length) for part in parts], count_targets(sequences), length * len(sequences))

    def state(self) -> list[dict[str, Any]]:
        """For `restore`, as JSON."""
        return self.mixture.state()

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.mixture.restore(state)


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
            progress.count(example)
        # of like length side by side, so that little is padded; a stable sort keeps the order reproducible
        examples.sort(key=lambda example: example.length)
        parts = self.micro_batches(examples)
        return Batch(parts, count_targets(examples), sum(part.tokens.numel() for part in parts))

    def example(self, position: int) -> PackedSequence | None:
        """The example at a position of the run; None, and a note of it, if it cannot be used."""
        index = shuffled(position, self.source.size, self.seed)
        sequence = PackedSequence(source=0)
        try:
            sequence.add(self.source.document(index, position))
        except BadSampleError as error:
            if self.progress[0].note_bad(index):
                check_bad_samples(self.source, self.progress[0], self.bad_samples_limit, str(error))
            return None
        return sequence

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
