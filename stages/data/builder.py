"""One sequence of a run, built from where it begins alone: in this process or in any other, with the same outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stages.data.order import ShardOrder
from stages.data.packing import PackedSequence, pack
from stages.data.progress import SequenceCounts
from stages.data.sample import AbsentSampleError, BadSampleError, Document, Source


class Place(NamedTuple):
    """Where a sequence begins."""

    source: int
    lane: int
    """Which stripe of the source's order."""
    cursor: int
    """Samples of the stripe before it."""


class Built(NamedTuple):
    """A sequence, and what was met on the way."""

    sequence: PackedSequence | None
    """None if there were so many bad samples that the run is to stop."""
    counts: SequenceCounts
    bad: dict[int, str]
    """Number of each bad sample, and why it is one."""


class Builder(Protocol):
    """Builds sequences. It has no state that the outcome depends on, and can be pickled."""

    def build(self, place: Place) -> Built:
        """The sequence that begins at `place`."""
        ...


@dataclass(frozen=True)
class SequenceBuilder:
    """Builds sequences of up to `context` positions. It has no state that the outcome depends on, and can be pickled.

    The order of each source is that of `ShardOrder`; stripe l of n holds its positions l, l + n, l + 2n...
    """

    sources: Sequence[Source]
    orders: Sequence[ShardOrder]
    context: int
    lanes: int
    most_documents: int | None
    """Documents of a sequence at most; None: as many as fit."""
    bad_samples_limit: int

    def build(self, place: Place) -> Built:
        """The sequence that begins at `place`."""
        lane = Lane(self, place)
        try:
            sequence = pack(lane, self.context, place.source, most=self.most_documents)
        except TooManyBadSamplesError:
            counts = SequenceCounts(0, 0, 0, 0, 0, lane.cursor, tuple(lane.bad))
            return Built(None, counts, lane.bad)
        return Built(sequence, SequenceCounts.of(sequence, tuple(lane.bad)), lane.bad)


class TooManyBadSamplesError(Exception):
    """More bad samples than the run may have, within a single sequence."""


class Lane:
    """Documents of one stripe of a source, from a place on; iterating moves `cursor`."""

    def __init__(self, builder: SequenceBuilder, place: Place) -> None:
        self.cursor = place.cursor
        self.bad: dict[int, str] = {}
        self._source, self._order = builder.sources[place.source], builder.orders[place.source]
        self._lane, self._lanes = place.lane, builder.lanes
        self._limit = min(builder.bad_samples_limit + 1, self._source.size)
        self._expect_shards()

    def next(self, room: int | None) -> Document | None:
        """The next good document; bad ones are noted and passed over. None: see `DocumentStream`."""
        while True:
            position = self._lane + self.cursor * self._lanes
            index = self._order.index(position)
            self.cursor += 1
            try:
                return self._source.document(index, position, room)
            except AbsentSampleError:
                continue
            except BadSampleError as error:
                self.bad[index] = str(error)
                if len(self.bad) >= self._limit:
                    raise TooManyBadSamplesError from error

    def _expect_shards(self) -> None:
        """Tells the source which shards are next: those of the window that we are in, and of the one after it."""
        window = self._order.window(self._lane + self.cursor * self._lanes)
        self._source.expect([*self._order.window_shards(window), *self._order.window_shards(window + 1)])
