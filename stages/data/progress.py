"""What a run has taken from a source so far; part of every checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from stages.data.packing import PackedSequence
from stages.data.sample import SampleSource
from stages.errors import DataError


class SequenceCounts(NamedTuple):
    """What one sequence took from its source: all that the next batch's plan needs to know of it."""

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
    """Samples read of each stripe, bad ones included."""
    bad: list[int] = field(default_factory=list)
    """Numbers of the bad samples met; no more than the limit allows and one."""

    def dump_state(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "SourceProgress":
        """What `state` gave."""
        return cls(**{**state, "cursors": list(state["cursors"]), "bad": list(state["bad"])})

    def count_totals(self) -> dict[str, int]:
        """The counts that a result shows."""
        names = ("sequences", "samples", "tokens", "image_tokens", "images")
        return {name: getattr(self, name) for name in names}

    def record_bad(self, index: int) -> bool:
        """Whether the bad sample is a new one."""
        if index in self.bad:
            return False
        self.bad.append(index)
        return True

    def add_counts(self, counts: SequenceCounts) -> None:
        """Adds a sequence's counts; cursors and bad samples are the caller's."""
        self.sequences += 1
        self.samples += counts.samples
        self.tokens += counts.tokens
        self.image_tokens += counts.image_tokens
        self.images += counts.images


def check_bad_samples(source: SampleSource, progress: SourceProgress, limit: int, reason: str) -> None:
    """DataError if the source now has more than `limit` bad samples, or has no other."""
    count = len(progress.bad)
    if count >= source.size:
        raise DataError(f"data set {source.name!r}: every sample is bad; the last: {reason}")
    if count > limit:
        raise DataError(f"data set {source.name!r}: {count} bad samples; the limit is {limit}; the last: {reason}")
