"""Sequences to the tensors of a batch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.config import LossMean
from stages.data.packing import PackedSequence, SequenceCounts
from stages.data.sample import NO_LOSS, Integers
from stages.distributed import Communicator
from stages.vision.image_input import ImageInput

PADDING = -1
"""Document number of padding positions."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Sequences that go through the model at once.

    B sequences of T positions, M of them with a loss; N images of I positions each. All tensors but `images` and
    `weights` are int64.
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
    mask: it comes last, and no position attends to later ones)."""
    image_inputs: tuple[ImageInput, ...] = ()
    """N of them, in the order of their positions."""
    images: Tensor | None = None
    """What the model takes for the images: (N, I, F) features, or (N, 3, S, S) pixels; None until attached."""
    image_positions: Tensor | None = None
    """(N, I): places in the flattened (B*T); None where there is no image."""
    weights: Tensor | None = None
    """(M,), float32: 1 over the number of targets in the target's sequence; None where each target weighs the same."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same with its tensors on another device; images stay where they are."""
        return self if device.type == "cpu" else self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """The same in page-locked memory, from where a copy to a GPU waits for nothing."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def attach_images(self, images: Tensor) -> "MicroBatch":
        """The same with what the model takes for its images."""
        return replace(self, images=images)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        def changed(tensor: Tensor | None) -> Tensor | None:
            return change(tensor) if tensor is not None else None

        return MicroBatch(
            tokens=change(self.tokens),
            targets=change(self.targets),
            target_positions=changed(self.target_positions),
            sources=change(self.sources),
            documents=changed(self.documents),
            image_inputs=self.image_inputs,
            images=changed(self.images),
            image_positions=changed(self.image_positions),
            weights=changed(self.weights),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimizer step learns from."""

    micro_batches: Sequence[MicroBatch]
    """Those of this process."""
    count: int
    """What the loss is one mean over, of all processes (`count_loss_terms`)."""
    positions: int
    """Positions that go through the model, padding included, of all processes."""
    images: int = 0
    """Images, of all processes."""


# Why: docs/decisions.md, D74
def count_loss_terms(counts: Iterable[SequenceCounts], loss_mean: LossMean) -> int:
    """Terms of the mean: targets of the whole batch, each weighing the same; or its sequences that have a target, each
    with the mean over its own targets."""
    if loss_mean == "tokens":
        return sum(each.targets for each in counts)
    return sum(each.targets > 0 for each in counts)


class Collator(Protocol):
    """Makes micro-batches of the sequences of a batch."""

    @property
    def loss_mean(self) -> LossMean: ...

    def collate(
        self, sequences: Sequence[PackedSequence], counts: Sequence[SequenceCounts], peers: Communicator
    ) -> tuple[list[MicroBatch], int]:
        """This rank's micro-batches, as many on each rank, and the positions of all ranks' (padding included).

        `sequences`: this rank's. `counts`: of all ranks' planned sequences, in the order of ranks.
        """
        ...


# Why: docs/decisions.md, D85
@dataclass(frozen=True)
class FixedLengthCollator:
    """Sequences of `length` positions, as many at once as `micro_batch_tokens` allow (one at least).

    Sequences of several documents share no micro-batch with the others, which so need no mask but the causal one.
    """

    length: int
    micro_batch_tokens: int
    loss_mean: LossMean = "tokens"

    def collate(
        self, sequences: Sequence[PackedSequence], counts: Sequence[SequenceCounts], peers: Communicator
    ) -> tuple[list[MicroBatch], int]:
        rows = max(1, self.micro_batch_tokens // self.length)
        single = [sequence for sequence in sequences if sequence.samples <= 1]
        several = [sequence for sequence in sequences if sequence.samples > 1]
        parts = [group[start : start + rows] for group in (single, several) for start in range(0, len(group), rows)]
        micro_batches = [collate_sequences(part, self.length, self.loss_mean) for part in parts]
        # all ranks have equally many sequences, and every rank knows of each how many documents it holds
        share = len(counts) // peers.size
        most = max(count_passes(counts[start : start + share], rows) for start in range(0, len(counts), share))
        return add_empty_passes(micro_batches, most), self.length * len(counts)


def count_passes(counts: Sequence[SequenceCounts], rows: int) -> int:
    """Micro-batches of at most `rows` sequences that a `FixedLengthCollator` makes of these."""
    several = sum(each.samples > 1 for each in counts)
    return -(-(len(counts) - several) // rows) + -(-several // rows)


@dataclass(frozen=True)
class PaddingCollator:
    """Sequences of any length, each padded to the longest of its micro-batch.

    A micro-batch has at most `micro_batch_tokens` positions (one sequence at least). All ranks have equally many.
    """

    micro_batch_tokens: int
    loss_mean: LossMean = "tokens"

    def collate(
        self,
        sequences: Sequence[PackedSequence],
        counts: Sequence[SequenceCounts],  # noqa: ARG002 - which of them are a rank's depends on the sampler
        peers: Communicator,
    ) -> tuple[list[MicroBatch], int]:
        # of like length side by side, so that little is padded; a stable sort keeps the order reproducible
        by_length = sorted(sequences, key=lambda sequence: sequence.length)
        parts = [collate_sequences(part, part[-1].length, self.loss_mean) for part in self.split(by_length)]
        own = [len(parts), sum(part.tokens.numel() for part in parts)]
        gathered = [each.tolist() for each in peers.gather(np.array(own, dtype=np.int64))]
        most = max(1, *(passes for passes, _ in gathered))  # an empty pass where no example of the batch is usable
        return add_empty_passes(parts, most), sum(positions for _, positions in gathered)

    def split(self, sequences: Sequence[PackedSequence]) -> list[list[PackedSequence]]:
        """Sequences, sorted by length, in parts of one micro-batch each."""
        parts: list[list[PackedSequence]] = []
        for sequence in sequences:
            if not parts or sequence.length * (len(parts[-1]) + 1) > self.micro_batch_tokens:
                parts.append([])
            parts[-1].append(sequence)
        return parts


def add_empty_passes(micro_batches: list[MicroBatch], passes: int) -> list[MicroBatch]:
    """As many `passes` as the rank with the most has: in each FSDP gathers the weights from all ranks.

    Empty ones come first. During the backward pass of the last one gradients are exchanged, which a full one hides.
    """
    return [build_empty_micro_batch()] * (passes - len(micro_batches)) + micro_batches


def build_empty_micro_batch() -> MicroBatch:
    """One position and no target."""
    none = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(torch.zeros(1, 1, dtype=torch.int64), none, none, none, None)


def collate_sequences(sequences: Sequence[PackedSequence], length: int, loss_mean: LossMean = "tokens") -> MicroBatch:
    """Sequences, padded on the right to `length`, as tensors."""
    targets = pad_rows([sequence.targets for sequence in sequences], length, NO_LOSS)
    learned = targets != NO_LOSS
    sources = torch.tensor([sequence.source for sequence in sequences])[:, None].expand_as(targets)
    packed = any(sequence.samples > 1 for sequence in sequences)
    return MicroBatch(
        tokens=pad_rows([sequence.tokens for sequence in sequences], length, 0),
        targets=targets[learned],
        target_positions=None if learned.all() else learned.flatten().nonzero()[:, 0],
        sources=sources[learned],
        documents=pad_rows([sequence.documents for sequence in sequences], length, PADDING) if packed else None,
        image_inputs=tuple(image for sequence in sequences for image in sequence.image_inputs),
        image_positions=compute_image_positions(sequences, length),
        weights=compute_sequence_weights(learned) if loss_mean == "sequences" else None,
    )


def compute_sequence_weights(learned: Tensor) -> Tensor:
    """(M,): for each target of `learned` (B, T) 1 over the number of them in its row, so that a row's add up to 1."""
    counts = learned.sum(dim=1, keepdim=True)  # of a row with none 1 / 0 comes out, which nothing selects
    return (1 / counts).expand_as(learned)[learned]


def pad_rows(rows: Sequence[Integers], length: int, filler: int) -> Tensor:
    """(B, T): each row, and the filler behind it up to `length`."""
    table = np.full((len(rows), length), filler, dtype=np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return torch.from_numpy(table)


def compute_image_positions(sequences: Sequence[PackedSequence], length: int) -> Tensor | None:
    """(N, I): places of all images in the flattened (B*T); None where there is none."""
    starts = [row * length + start for row, sequence in enumerate(sequences) for start in sequence.image_starts]
    if not starts:
        return None
    tokens = sum(sequence.image_tokens for sequence in sequences) // len(starts)  # every image has the same number
    return torch.tensor(starts)[:, None] + torch.arange(tokens)
