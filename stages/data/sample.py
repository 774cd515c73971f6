"""What a source hands to the mixture: documents, and why one cannot be used. Nothing here needs torch to be loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stages.vision.image_input import ImageInput

if TYPE_CHECKING:
    import numpy as np

    Integers = np.ndarray[tuple[int], np.dtype[np.int64]]
    """int64, one dimension."""
    Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
    """bool, one dimension."""
else:  # the names alone: what counts samples on a login node starts without numpy
    Integers = Flags = Sequence

NO_LOSS = -100
"""Target of a position without loss (torch's own ignore_index)."""


class BadSampleError(ValueError):
    """One sample that cannot be used; it is counted and skipped. The message says which and why."""


def check_text(where: str, text: str) -> str:
    """`text`, which JSON can spell though it is none: BadSampleError, naming `where`, for half a character.

    Every string of a sample passes here before a tokenizer or a file system gets it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadSampleError(f"{where} holds half a character (a lone surrogate)") from error
    return text


class AbsentSampleError(ValueError):
    """One sample that a manifest promises and its shard, which is whole, has not: it is skipped, and not counted."""


class ImageReader(Protocol):
    """How sources read images (`stages.data.image_reader.EncoderImageReader`)."""

    @property
    def image_tokens(self) -> int:
        """Positions that an image takes in the model."""
        ...

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:
        """The image of a file's bytes; BadSampleError, naming `where`, if they are no usable image."""
        ...


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids, before them the tokens of an image where there is one. What one document holds, no other sees.

    With a `start` the order is start, image, tokens.
    """

    tokens: Sequence[int] | Integers
    learned: Sequence[bool] | Flags
    """For each token: whether it is a target of the loss."""
    image_input: ImageInput | None = None
    image_tokens: int = 0
    """Positions of the image; 0 where there is none."""
    start: Sequence[int] = ()
    """Token ids before the image, never with a loss: a tokenizer's start-of-text token, where it has one."""

    @property
    def length(self) -> int:
        """Positions in the model: the last token is a target only."""
        return len(self.start) + self.image_tokens + len(self.tokens) - 1


class SampleSource(Protocol):
    """A data set with samples 0..size-1, each a document, in one or more shards that are read together."""

    name: str
    size: int

    @property
    def shard_sizes(self) -> Sequence[int]:
        """Samples of each shard, in the order of their numbers; their sum is `size`."""
        ...

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:
        """Sample `index`, met at `position` of the order. BadSampleError if it cannot be used; AbsentSampleError.

        None if it needs more than `room` positions; then no image of it is decoded, so that it may still turn out bad.
        """
        ...

    def prefetch(self, shards: Sequence[int]) -> None:
        """Says that samples of these shards are wanted soon; a source of remote shards fetches them ahead."""
        ...
