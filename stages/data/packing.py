"""The packer: documents of a source, one after the other, in sequences of fixed length. It does not load torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from stages.data.order import ShardOrder
from stages.data.sample import NO_LOSS, AbsentSampleError, BadSampleError, Document, Integers, SampleSource
from stages.vision.image_input import ImageInput


class DocumentStream(Protocol):
    """A stream of documents that knows how far it was read."""

    cursor: int

    def read_next(self, room: int | None) -> Document | None:
        """The next document; None, and `cursor` behind it all the same, if it needs more than `room` positions."""
        ...


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Whole documents one after the other, without padding. Positions of images hold token 0. L positions."""

    source: int
    tokens: Integers
    """(L,)"""
    targets: Integers
    """(L,): the token that each position is to predict, or NO_LOSS."""
    documents: Integers
    """(L,): which document each position belongs to: 0, 1, 2..."""
    image_inputs: tuple[ImageInput, ...] = ()
    image_starts: tuple[int, ...] = ()
    """First position of each image."""
    image_tokens: int = 0
    """Positions of all images together."""
    samples: int = 0
    next_cursor: int = 0

    @property
    def length(self) -> int:
        """Positions filled."""
        return len(self.tokens)

    @property
    def target_count(self) -> int:
        """Positions with a loss."""
        return int(np.count_nonzero(self.targets != NO_LOSS))


def join_documents(documents: Sequence[Document], source: int, next_cursor: int = 0) -> PackedSequence:
    """Whole documents as one sequence."""
    starts = np.cumsum([0] + [document.length for document in documents])
    pictured = [
        (int(start) + len(each.start), each)
        for start, each in zip(starts, documents, strict=False)
        if each.image_input is not None
    ]
    return PackedSequence(
        source=source,
        tokens=np.concatenate([build_inputs(document) for document in documents]),
        targets=np.concatenate([build_targets(document) for document in documents]),
        documents=np.repeat(np.arange(len(documents)), np.diff(starts)),
        image_inputs=tuple(each.image_input for _, each in pictured if each.image_input is not None),
        image_starts=tuple(start for start, _ in pictured),
        image_tokens=sum(document.image_tokens for document in documents),
        samples=len(documents),
        next_cursor=next_cursor,
    )


def build_inputs(document: Document) -> Integers:
    """The token at each position: 0 at the image's."""
    tokens = np.asarray(document.tokens, dtype=np.int64)[:-1]
    if not document.image_tokens and not document.start:
        return tokens
    start = np.asarray(document.start, dtype=np.int64)
    return np.concatenate([start, np.zeros(document.image_tokens, np.int64), tokens])


def build_targets(document: Document) -> Integers:
    """The token that each position predicts, or NO_LOSS.

    The last position of an image, or of the start, predicts the first token; with neither, that is no target.
    """
    learned = np.asarray(document.learned, dtype=np.bool_)
    found = np.asarray(document.tokens, dtype=np.int64)
    if not learned.all():
        found = np.where(learned, found, NO_LOSS)
    before = len(document.start) + document.image_tokens
    if not before:
        return found[1:]
    return np.concatenate([np.full(before - 1, NO_LOSS), found])


# Why: docs/decisions.md, D15
def pack_sequence(stream: DocumentStream, length: int, source: int, *, most: int | None = None) -> PackedSequence:
    """Fills a sequence with whole documents as long as they fit; the one that does not is left for the next sequence.

    A document that is longer than a sequence is cut to it, at its end. `most`: documents of a sequence at most.
    """
    documents: list[Document] = []
    filled, next_cursor = 0, stream.cursor
    while filled < length and (most is None or len(documents) < most):
        document = stream.read_next(length - filled if documents else None)
        if document is None:
            break
        documents.append(truncate_document(document, length))
        filled += documents[-1].length
        next_cursor = stream.cursor
    return join_documents(documents, source, next_cursor)


def truncate_document(document: Document, length: int) -> Document:
    """The beginning of a document, `length` positions at most."""
    if document.length <= length:
        return document
    room = length + 1 - document.image_tokens - len(document.start)
    return replace(document, tokens=document.tokens[:room], learned=document.learned[:room])


class SequenceCounts(NamedTuple):
    """What one sequence took from its source. The plan of the next batch needs no more of it."""

    samples: int
    tokens: int
    image_tokens: int
    images: int
    targets: int
    next_cursor: int
    bad: tuple[int, ...] = ()
    """Numbers of the bad samples met on the way."""

    @classmethod
    def from_sequence(cls, sequence: PackedSequence, bad: Sequence[int] = ()) -> "SequenceCounts":
        return cls(
            samples=sequence.samples,
            tokens=sequence.length,
            image_tokens=sequence.image_tokens,
            images=len(sequence.image_inputs),
            targets=sequence.target_count,
            next_cursor=sequence.next_cursor,
            bad=tuple(bad),
        )

    def encode_numbers(self) -> list[int]:
        """For `decode_counts`, to send to other processes."""
        return [*self[:6], len(self.bad), *self.bad]


def decode_counts(numbers: Sequence[int]) -> Iterator[SequenceCounts]:
    """The counts whose `numbers` were put one behind the other."""
    start = 0
    while start < len(numbers):
        samples, tokens, image_tokens, images, targets, next_cursor, bad = numbers[start : start + 7]
        start += 7 + bad
        yield SequenceCounts(
            samples, tokens, image_tokens, images, targets, next_cursor, tuple(numbers[start - bad : start])
        )


# From where a sequence begins to the sequence: in this process or in any other, with the same outcome.


class SequenceStart(NamedTuple):
    """Where a sequence begins."""

    source: int
    stripe: int
    """Which stripe of the source's order."""
    cursor: int
    """Samples of the stripe before it."""


class BuiltSequence(NamedTuple):
    """A sequence, and the bad samples that were skipped for it."""

    sequence: PackedSequence | None
    """None if so many samples are bad that the run has to stop."""
    counts: SequenceCounts
    bad: dict[int, str]
    """Number of each bad sample, and why it is one."""


class Packer(Protocol):
    """Builds sequences from a source's documents. It has no state that the outcome depends on, and can be pickled."""

    def build(self, start: SequenceStart) -> BuiltSequence:
        """The sequence that begins at `start`."""
        ...


@dataclass(frozen=True)
class SequencePacker:
    """Sequences of up to `context` positions.

    Each source is read in the order of its `ShardOrder`; stripe i of n holds the positions i, i + n, i + 2n...
    """

    sources: Sequence[SampleSource]
    orders: Sequence[ShardOrder]
    context: int
    stripes: int
    most_documents: int | None
    """Documents of a sequence at most; None: as many as fit."""
    bad_samples_limit: int

    def build(self, start: SequenceStart) -> BuiltSequence:
        """The sequence that begins at `start`."""
        reader = StripeReader(self, start)
        try:
            sequence = pack_sequence(reader, self.context, start.source, most=self.most_documents)
        except TooManyBadSamplesError:
            counts = SequenceCounts(0, 0, 0, 0, 0, reader.cursor, tuple(reader.bad))
            return BuiltSequence(None, counts, reader.bad)
        return BuiltSequence(sequence, SequenceCounts.from_sequence(sequence, tuple(reader.bad)), reader.bad)


class TooManyBadSamplesError(Exception):
    """More bad samples than the run may have, within a single sequence."""


class StripeReader:
    """Documents of one stripe of a source; `cursor` counts the samples that were read."""

    def __init__(self, packer: SequencePacker, start: SequenceStart) -> None:
        self.cursor = start.cursor
        self.bad: dict[int, str] = {}
        self._source, self._order = packer.sources[start.source], packer.orders[start.source]
        self._stripe, self._stripes = start.stripe, packer.stripes
        self._limit = min(packer.bad_samples_limit + 1, self._source.size)
        self._prefetch_shards()

    def read_next(self, room: int | None) -> Document | None:
        """The next good document; bad ones are noted and skipped. None: see `DocumentStream`."""
        while True:
            position = self._stripe + self.cursor * self._stripes
            index = self._order.compute_sample(position)
            self.cursor += 1
            try:
                return self._source.read_document(index, position, room)
            except AbsentSampleError:
                continue
            except BadSampleError as error:
                self.bad[index] = str(error)
                if len(self.bad) >= self._limit:
                    raise TooManyBadSamplesError from error

    def _prefetch_shards(self) -> None:
        """Asks the source for the shards of this window and of the next one."""
        window = self._order.compute_window(self._stripe + self.cursor * self._stripes)
        self._source.prefetch([*self._order.list_window_shards(window), *self._order.list_window_shards(window + 1)])
