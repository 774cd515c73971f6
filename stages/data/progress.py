"""What a run has taken from a source so far; part of every checkpoint."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stages.data.packing import PackedSequence
from stages.data.sample import Source
from stages.errors import DataError


@dataclass
class Progress:
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
    """Numbers of the bad samples met."""

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Progress":
        """What `state` gave."""
        return cls(**{**state, "cursors": list(state["cursors"]), "bad": list(state["bad"])})

    def totals(self) -> dict[str, int]:
        """The counts that a result shows."""
        names = ("sequences", "samples", "tokens", "image_tokens", "images")
        return {name: getattr(self, name) for name in names}

    def note_bad(self, index: int) -> bool:
        """Whether the bad sample is a new one."""
        if index in self.bad:
            return False
        self.bad.append(index)
        return True

    def count(self, sequence: PackedSequence) -> None:
        self.sequences += 1
        self.samples += sequence.samples
        self.tokens += sequence.length
        self.image_tokens += sequence.image_tokens
        self.images += len(sequence.images)


def check_bad_samples(source: Source, progress: Progress, limit: int, reason: str) -> None:
    """Tells of a new bad sample; DataError if the source now has more than `limit`, or has no other."""
    print(f"data set {source.name!r}: skipped: {reason}", file=sys.stderr)
    count = len(progress.bad)
    if count >= source.size:
        raise DataError(f"data set {source.name!r}: every sample is bad; the last: {reason}")
    if count > limit:
        raise DataError(f"data set {source.name!r}: {count} bad samples; the limit is {limit}; the last: {reason}")
