"""Documents to sequences of fixed length, and sequences to the tensors of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from stages.data.sample import NO_LOSS, Document

PADDING = -1
"""Document number of padding positions."""


class DocumentStream(Protocol):
    """A stream of documents that knows how far it was read."""

    cursor: int

    def next(self) -> Document: ...


@dataclass(slots=True)
class PackedSequence:
    """Whole documents one after the other, and padding behind them. Positions of images hold token 0."""

    source: int
    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    """The token that each position is to predict, or NO_LOSS."""
    documents: list[int] = field(default_factory=list)
    """Which document each position belongs to: 0, 1, 2..."""
    images: list[tuple[int, Tensor]] = field(default_factory=list)
    """(first position, features)"""
    samples: int = 0
    next_cursor: int = 0

    @property
    def length(self) -> int:
        """Positions filled, padding left out."""
        return len(self.tokens)

    @property
    def image_tokens(self) -> int:
        return sum(len(features) for _, features in self.images)

    def add(self, document: Document) -> None:
        images = document.image_tokens
        if document.features is not None:
            self.images.append((len(self.tokens), document.features))
        self.documents += [self.samples] * document.length
        self.tokens += [0] * images + document.tokens[:-1]
        # the last image position predicts the first token; without an image the first token is no target
        targets = [t if learned else NO_LOSS for t, learned in zip(document.tokens, document.learned, strict=True)]
        self.targets += [NO_LOSS] * (images - 1) + targets if images else targets[1:]
        self.samples += 1


def pack(stream: DocumentStream, length: int, source: int) -> PackedSequence:
    """Fills a sequence with whole documents as long as they fit; the one that does not is left for the next sequence.

    A document that is longer than a sequence is cut to it, at its end.
    """
    sequence = PackedSequence(source, next_cursor=stream.cursor)
    while sequence.length < length:
        document = stream.next()
        if sequence.samples and sequence.length + document.length > length:
            break
        sequence.add(cut(document, length))
        sequence.next_cursor = stream.cursor
    return sequence


def cut(document: Document, length: int) -> Document:
    """The beginning of a document, `length` positions at most."""
    if document.length <= length:
        return document
    room = length + 1 - document.image_tokens
    return Document(document.tokens[:room], document.learned[:room], document.features)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences that go through the model at once.

    B sequences of T positions, M of them with a loss; N images of I tokens with F numbers each.
    """

    tokens: Tensor
    """(B, T)"""
    targets: Tensor
    """(M,): the tokens to predict."""
    target_positions: Tensor | None
    """(M,): from which places of the flattened (B*T); None: from all, in order."""
    sources: Tensor
    """(M,): each target's source."""
    documents: Tensor | None
    """(B, T), PADDING behind the last document; None where each sequence is a single document (then padding needs no
    mask: it comes last, and nothing looks ahead)."""
    features: Tensor | None
    """(N, I, F)"""
    image_positions: Tensor | None
    """(N, I): places in the flattened (B*T)."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor | None) -> Tensor | None:
            return tensor.to(device, non_blocking=True) if tensor is not None else None

        return MicroBatch(
            tokens=self.tokens.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            target_positions=moved(self.target_positions),
            sources=self.sources.to(device, non_blocking=True),
            documents=moved(self.documents),
            features=moved(self.features),
            image_positions=moved(self.image_positions),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimizer step learns from."""

    micro_batches: Sequence[MicroBatch]
    targets: int
    """Positions with a loss, in all of them."""
    positions: int
    """Positions that go through the model, padding included."""


def collate(sequences: Sequence[PackedSequence], length: int) -> MicroBatch:
    """Sequences, padded on the right to `length`, as tensors."""

    def padded(rows: Sequence[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows], dtype=torch.long)

    targets = padded([sequence.targets for sequence in sequences], NO_LOSS)
    learned = targets != NO_LOSS
    sources = torch.tensor([sequence.source for sequence in sequences])[:, None].expand_as(targets)
    packed = any(sequence.samples > 1 for sequence in sequences)
    features, image_positions = collate_images(sequences, length)
    return MicroBatch(
        tokens=padded([sequence.tokens for sequence in sequences], 0),
        targets=targets[learned],
        target_positions=None if learned.all() else learned.flatten().nonzero()[:, 0],
        sources=sources[learned],
        documents=padded([sequence.documents for sequence in sequences], PADDING) if packed else None,
        features=features,
        image_positions=image_positions,
    )


def collate_images(sequences: Sequence[PackedSequence], length: int) -> tuple[Tensor | None, Tensor | None]:
    """Features (N, I, F) of all images, and their places (N, I) in the flattened (B*T); None where there are none."""
    images = [
        (row * length + start, features)
        for row, sequence in enumerate(sequences)
        for start, features in sequence.images
    ]
    if not images:
        return None, None
    features = torch.stack([features for _, features in images])
    return features, torch.tensor([start for start, _ in images])[:, None] + torch.arange(features.shape[1])


def document_mask(documents: Tensor) -> Tensor:
    """(B, 1, T, T), true where a position may look: backwards, within its own document."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def count_targets(sequences: Sequence[PackedSequence]) -> int:
    """Positions with a loss."""
    return sum(target != NO_LOSS for sequence in sequences for target in sequence.targets)
