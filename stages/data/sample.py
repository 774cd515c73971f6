"""What a source hands to the mixture: documents, and why one cannot be used."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

NO_LOSS = -100
"""Target of a position without loss (torch's own ignore_index)."""


class BadSampleError(ValueError):
    """One sample that cannot be used; it is counted and skipped. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, before them the tokens of an image where there is one. What one document holds, no other sees."""

    tokens: list[int]
    learned: list[bool]
    """For each token: whether it is a target of the loss."""
    features: "Tensor | None" = None
    """The image's features (image tokens, feature width)."""

    @property
    def image_tokens(self) -> int:
        return len(self.features) if self.features is not None else 0

    @property
    def length(self) -> int:
        """Positions in the model: the last token is a target only."""
        return self.image_tokens + len(self.tokens) - 1


class Source(Protocol):
    """A data set with samples 0..size-1, each a document."""

    name: str
    size: int

    def document(self, index: int, position: int) -> Document:
        """Sample `index`, met at `position` of the run's order; BadSampleError if it cannot be used."""
        ...
