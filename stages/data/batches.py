"""Batches of pre-training: sequences of a mixture."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from stages.data.collate import Batch, MicroBatch, collate
from stages.data.mixture import Mixture
from stages.data.order import ExampleOrder
from stages.data.packing import PackedSequence, join_documents
from stages.data.progress import SequenceCounts, SourceProgress, check_bad_samples
from stages.data.sample import BadSampleError, SampleSource
from stages.data.workers import (
    BatchesClosedError,
    Builder,
    BuiltSequence,
    Prefetcher,
    SequenceStart,
    WorkerPool,
    build_together,
    select_own_part,
)
from stages.distributed import SINGLE_PROCESS, Communicator
from stages.errors import DataError, OtherRankError

# What all batches of training have in common: they are built when asked for, or ahead, by processes of their own.


class BatchAndState(NamedTuple):
    """A batch, and the state of the data after it."""

    batch: Batch
    state: list[dict[str, Any]]


class PreparedBatches(ABC):
    """Batches, of each this rank's part. `close` ends what was started; also a `with` block does.

    The numbers do not depend on how many processes build them.
    """

    def __init__(self, builder: Builder, state: list[dict[str, Any]], *, workers: int, prefetch_batches: int) -> None:
        """`state`: that of the beginning. `workers`: processes that build ahead of the loop; 0: batches are built when
        asked for, in this process. `prefetch_batches`: how many are ready ahead.
        """
        self._builder, self._state = builder, state
        self._count, self._prefetch = workers, prefetch_batches
        self._workers: WorkerPool | None = None
        self._ahead: Prefetcher[BatchAndState] | None = None

    @property
    def progress(self) -> list[SourceProgress]:
        """After the batch that was returned last."""
        return [SourceProgress.from_state(entry) for entry in self._state]

    def take_batch(self) -> Batch:
        """The next global batch. DataError for bad data beyond the limit, or if a worker or another rank has failed."""
        if self._count and self._ahead is None:
            self._workers = WorkerPool(self._builder, self._count)
            self._ahead = Prefetcher(self._build_next, self._prefetch)
        try:
            made = self._ahead.take() if self._ahead is not None else self._build_next()
        except BatchesClosedError as error:
            raise OtherRankError("another rank has ended; its log says why") from error
        self._state = made.state
        return made.batch

    def dump_state(self) -> list[dict[str, Any]]:
        """For `restore`, as JSON: after the batch that was returned last, whatever was built ahead."""
        return self._state

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.close()
        self._state = self._seek(state)

    def close(self) -> None:
        """Ends the thread and the processes; batches that were built ahead are dropped. All ranks are to call it."""
        if self._ahead is None or self._workers is None:
            return
        self._workers.cancel()
        self._ahead.close()
        self._workers.close()
        self._ahead = self._workers = None
        self._seek(self._state)

    def __enter__(self) -> "PreparedBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self, places: Sequence[SequenceStart]) -> list[BuiltSequence]:
        """The sequences that begin there."""
        if self._workers is not None:
            return self._workers.build(places)
        return [self._builder.build(place) for place in places]

    @abstractmethod
    def _build_next(self) -> BatchAndState:
        """The next batch; perhaps in a thread of its own, ahead of the loop."""

    @abstractmethod
    def _seek(self, state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Makes `_make` go on after the batch at which `state` was taken; returns that state as it is now written."""


class MixtureBatches(PreparedBatches):
    """Packed sequences of the context's length (pre-training), of each batch this rank's part.

    The numbers do not depend on how many processes build them, nor on how many ranks share them.
    """

    def __init__(
        self,
        mixture: Mixture,
        micro_batch_tokens: int,
        *,
        peers: Communicator = SINGLE_PROCESS,
        workers: int = 0,
        prefetch_batches: int = 2,
        pin: bool = False,
    ) -> None:
        """`workers`, `prefetch_batches`: see `PreparedBatches`.

        `pin`: in page-locked memory, for copies to a GPU.
        """
        super().__init__(mixture.builder, mixture.dump_state(), workers=workers, prefetch_batches=prefetch_batches)
        self.mixture, self._peers, self._pin = mixture, peers, pin
        self._rows = max(1, micro_batch_tokens // mixture.context)

    @property
    def source_names(self) -> list[str]:
        return [source.name for source in self.mixture.sources]

    def _seek(self, state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.mixture.restore(state)
        return self.mixture.dump_state()

    def _build_next(self) -> BatchAndState:
        """Plans a batch, builds this rank's part of it, and takes account of what all ranks built."""
        places = self.mixture.plan_batch()
        own = select_own_part(places, self._peers)
        built, counts = build_together(own, self._build, self._peers)
        self.mixture.record_batch(places, counts, self.mixture.report_new_bad_samples(own, built))
        sequences = [each.sequence for each in built if each.sequence is not None]
        batch = Batch(
            micro_batches=self._micro_batches(sequences),
            targets=sum(each.targets for each in counts),
            positions=self.mixture.context * len(places),
            images=sum(each.images for each in counts),
        )
        return BatchAndState(batch, self.mixture.dump_state())

    def _micro_batches(self, sequences: Sequence[PackedSequence]) -> list[MicroBatch]:
        """This rank's sequences, as many at once as the device is given."""
        length = self.mixture.context
        parts = [sequences[start : start + self._rows] for start in range(0, len(sequences), self._rows)]
        return [collate(part, length).pin_memory() if self._pin else collate(part, length) for part in parts]


# Batches of fine-tuning: examples of any length, shared out among ranks.


class ExampleSource(SampleSource, Protocol):
    """A source that knows of each example, unread, what batches are made by."""

    def has_image(self, index: int) -> bool:
        """Whether example `index` has an image."""
        ...

    def count_words(self, index: int) -> int:
        """About how long example `index` is, its image left out."""
        ...


@dataclass(frozen=True)
class ExampleBuilder:
    """Builds single examples: each is a sequence of its own. `SequenceStart.cursor` is the number of the example."""

    source: SampleSource

    def build(self, place: SequenceStart) -> BuiltSequence:
        """The example of that number; none, and why, if it cannot be used."""
        index = place.cursor
        try:
            document = self.source.read_document(index, index)
        except BadSampleError as error:
            return BuiltSequence(None, SequenceCounts(0, 0, 0, 0, 0, 0, (index,)), {index: str(error)})
        assert document is not None  # noqa: S101 - without a limit there is room
        sequence = join_documents([document], source=0)
        return BuiltSequence(sequence, SequenceCounts.from_sequence(sequence), {})


class ExampleBatches(PreparedBatches):
    """The examples of a batch, each once an epoch; this rank's part of them, padded to the longest of a micro-batch.

    An example that cannot be used is left out of its batch. All ranks have equally many micro-batches.
    """

    def __init__(
        self,
        source: ExampleSource,
        *,
        batch_size: int,
        seed: int,
        micro_batch_tokens: int,
        bad_samples_limit: int,
        peers: Communicator = SINGLE_PROCESS,
        workers: int = 0,
        prefetch_batches: int = 2,
        pin: bool = False,
    ) -> None:
        """`batch_size`: the most examples of all ranks' batch. `workers`, `prefetch_batches`: see `PreparedBatches`.

        `pin`: in page-locked memory, for copies to a GPU.
        """
        self._taken = SourceProgress(cursors=[0])  # the cursor counts batches
        super().__init__(
            ExampleBuilder(source), [self._taken.dump_state()], workers=workers, prefetch_batches=prefetch_batches
        )
        marks = [source.has_image(index) for index in range(source.size)]
        self.order = ExampleOrder(marks, batch_size=batch_size, seed=seed)
        self.source, self.micro_batch_tokens = source, micro_batch_tokens
        self.bad_samples_limit, self._peers, self._pin = bad_samples_limit, peers, pin

    @property
    def source_names(self) -> list[str]:
        return [self.source.name]

    def _seek(self, state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self._taken = SourceProgress.from_state(state[0])
        return [self._taken.dump_state()]

    def _build_next(self) -> BatchAndState:
        """Builds this rank's part of the next batch, and takes account of what all ranks built."""
        indices = self.order.select_examples(self._taken.cursors[0])
        own = [SequenceStart(0, 0, index) for index in self.select_own(indices)]
        built, counts = build_together(own, self._build, self._peers)
        self._note(counts, {index: reason for each in built for index, reason in each.bad.items()})
        if not any(each.samples for each in counts):
            raise DataError(f"data set {self.source.name!r}: no usable example among {len(indices)} in a row")
        # of like length side by side, so that little is padded; a stable sort keeps the order reproducible
        examples = sorted((each.sequence for each in built if each.sequence is not None), key=lambda one: one.length)
        parts = self.split_micro_batches(examples)
        passes, positions = self._agree(len(parts), sum(part.tokens.numel() for part in parts))
        parts += [build_empty_micro_batch()] * (passes - len(parts))
        batch = Batch(
            micro_batches=[part.pin_memory() for part in parts] if self._pin else parts,
            targets=sum(each.targets for each in counts),
            positions=positions,
            images=sum(each.images for each in counts),
        )
        return BatchAndState(batch, [self._taken.dump_state()])

    def select_own(self, indices: Sequence[int]) -> Sequence[int]:
        """This rank's examples of a batch: every n-th by length, so that ranks have equally much to do."""
        by_length = sorted(indices, key=self.source.count_words)
        return by_length[self._peers.rank :: self._peers.size]

    def split_micro_batches(self, examples: Sequence[PackedSequence]) -> list[MicroBatch]:
        """Examples, sorted by length, in parts of at most `micro_batch_tokens` positions (one example at least)."""
        parts: list[list[PackedSequence]] = []
        for example in examples:
            if not parts or example.length * (len(parts[-1]) + 1) > self.micro_batch_tokens:
                parts.append([])
            parts[-1].append(example)
        return [collate(part, part[-1].length) for part in parts]

    def _note(self, counts: Iterable[SequenceCounts], reasons: Mapping[int, str]) -> None:
        """Takes account of a batch. A bad example counts once, however often it comes; DataError beyond the limit.

        `reasons`: as far as they are known in this process, which tells of them on stderr.
        """
        self._taken.cursors[0] += 1
        for each in counts:
            if each.samples:
                self._taken.add_counts(each)
            for index in each.bad:
                if not self._taken.record_bad(index):
                    continue
                if index in reasons:
                    print(f"data set {self.source.name!r}: skipped: {reasons[index]}", file=sys.stderr)
                reason = reasons.get(index, f"example {index}; the log of another rank says why")
                check_bad_samples(self.source, self._taken, self.bad_samples_limit, reason)

    def _agree(self, passes: int, positions: int) -> tuple[int, int]:
        """The most passes of a rank, and all ranks' positions."""
        said = self._peers.gather(np.array([passes, positions], dtype=np.int64))
        return max(int(each[0]) for each in said), sum(int(each[1]) for each in said)


def build_empty_micro_batch() -> MicroBatch:
    """One position and no target: what a rank computes while others have one more micro-batch, as FSDP gathers weights
    in each pass from all."""
    none = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(torch.zeros(1, 1, dtype=torch.int64), none, none, none, None)
