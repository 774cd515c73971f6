"""Documents one after the other in sequences of fixed length. Nothing here needs torch to be loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stages.data.sample import NO_LOSS, Document, Integers
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
    """First position of each picture."""
    image_tokens: int = 0
    """Positions of all pictures together."""
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
