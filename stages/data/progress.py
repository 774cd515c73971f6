"""The state of a run's data: what was taken from each source so far. Part of every checkpoint."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stages.data.packing import SequenceCounts
from stages.data.sample import SampleSource
from stages.errors import DataError


@dataclass
class SourceProgress:
    """What a run has taken from one source so far."""

    sequences: int = 0
    samples: int = 0
    tokens: int = 0
    """Positions, image tokens included, padding left out."""
    image_tokens: int = 0
    images: int = 0
    cursors: list[int] = field(default_factory=list)
    """How far each stripe is read: samples that lie before it, bad ones included. A source that goes on behind an
    earlier run does not begin at 0."""
    bad: list[int] = field(default_factory=list)
    """Numbers of the bad samples met; at most one more than the limit."""

    def copy(self) -> "SourceProgress":
        return replace(self, cursors=list(self.cursors), bad=list(self.bad))

    def count_totals(self) -> dict[str, int]:
        """The counts that a result shows."""
        names = ("sequences", "samples", "tokens", "image_tokens", "images")
        return {name: getattr(self, name) for name in names}

    def add_counts(self, counts: SequenceCounts) -> None:
        """Adds a sequence's counts. Cursors and bad samples are the caller's."""
        self.sequences += 1
        self.samples += counts.samples
        self.tokens += counts.tokens
        self.image_tokens += counts.image_tokens
        self.images += counts.images

    def record_bad_samples(
        self, source: SampleSource, indices: Iterable[int], reasons: Mapping[int, str], *, limit: int
    ) -> None:
        """Counts each bad sample once, however often it is met.

        `reasons`: of the samples that this process has read; it writes a line on stderr for each new one. DataError if
        more than `limit` samples are bad, or all.
        """
        for index in indices:
            if index in self.bad:
                continue
            self.bad.append(index)
            if index in reasons:
                print(f"data set {source.name!r}: skipped: {reasons[index]}", file=sys.stderr)
            reason = reasons.get(index, f"sample {index}; the log of another rank says why")
            count = len(self.bad)
            if count >= source.size:
                raise DataError(f"data set {source.name!r}: every sample is bad; the last: {reason}")
            if count > limit:
                raise DataError(
                    f"data set {source.name!r}: {count} bad samples; the limit is {limit}; the last: {reason}"
                )


@dataclass
class DataState:
    """All that a run needs to know of its data to go on with the next batch."""

    sources: list[SourceProgress]

    def copy(self) -> "DataState":
        return DataState([progress.copy() for progress in self.sources])

    def dump_state(self) -> list[dict[str, Any]]:
        """The JSON of a checkpoint."""
        return [asdict(progress) for progress in self.sources]

    @classmethod
    def from_state(cls, entries: Sequence[Mapping[str, Any]]) -> "DataState":
        """The reverse of `dump_state`."""
        return cls([SourceProgress(**entry).copy() for entry in entries])
