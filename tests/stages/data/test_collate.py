"""What a second device needs, and which sequences share a micro-batch.

The meta device stands in for a second one: it refuses tensors of the CPU beside its own.
"""

from dataclasses import fields

import pytest
import torch

from stages.data.batches import BatchLoader
from stages.data.collate import FixedLengthCollator, MicroBatch, collate_sequences, count_loss_terms
from stages.data.mixture import Mixture
from stages.data.packing import PackedSequence, SequenceCounts, join_documents
from stages.data.sample import Document, SampleSource
from stages.distributed import DistributedContext, resolve_micro_batch_tokens
from stages.models.attention import build_attention_mask
from stages.vision.image_input import ImageInput
from tests.stages.data.synthetic_sources import CONTEXT, Pairs, Texts
from tests.stages.thread_ranks import on_threads

META = torch.device("meta")


def full_batch() -> MicroBatch:
    """Two documents with an image each in one sequence, and padding: no field is None."""
    document = Document([5, 6, 7], [True, True, False], ImageInput("0" * 64), image_tokens=4)
    sequence = join_documents([document, document], source=0)
    return collate_sequences([sequence], length=16, loss_mean="sequences").attach_images(torch.zeros(2, 4, 8))


def test_every_tensor_of_a_batch_moves() -> None:
    batch = full_batch().to(META)
    names = {field.name for field in fields(batch)} - {"image_inputs"}
    assert {name: str(getattr(batch, name).device) for name in names} == dict.fromkeys(names, "meta")
    assert len(batch.image_inputs) == 2


def test_a_batch_stays_where_it_is_on_a_cpu() -> None:
    batch = full_batch()
    assert batch.to(torch.device("cpu")) is batch


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 2_048), ("cuda", 16_384)])
def test_a_gpu_gets_larger_micro_batches_unless_the_job_says(device: str, tokens: int) -> None:
    assert resolve_micro_batch_tokens(0, torch.device(device)) == tokens
    assert resolve_micro_batch_tokens(512, torch.device(device)) == 512


def test_the_targets_of_a_sequence_weigh_as_much_as_those_of_any_other() -> None:
    short, long = (join_documents([Document([1] * n, [True] * n)], source=0) for n in (3, 6))
    silent = join_documents([Document([1, 2, 3], [False] * 3)], source=1)
    batch = collate_sequences([short, silent, long], length=8, loss_mean="sequences")
    assert batch.weights is not None
    assert batch.weights.dtype == torch.float32
    assert batch.weights.tolist() == pytest.approx([1 / 2] * 2 + [1 / 5] * 5)
    assert collate_sequences([short, long], length=8).weights is None


def test_the_mean_is_over_targets_or_over_sequences_that_have_one() -> None:
    counts = [
        SequenceCounts(samples=1, tokens=8, image_tokens=0, images=0, targets=targets, next_cursor=1)
        for targets in (7, 0, 2)
    ]
    assert count_loss_terms(counts, "tokens") == 9
    assert count_loss_terms(counts, "sequences") == 2


def test_a_position_sees_its_own_document_alone() -> None:
    sequence = join_documents([Document(list(range(length)), [True] * length) for length in (3, 4)], source=0)
    batch = collate_sequences([sequence], length=7)
    assert batch.tokens.tolist() == [[0, 1, 0, 1, 2, 0, 0]]
    assert batch.targets.tolist() == [1, 2, 1, 2, 3]
    assert batch.target_positions is not None
    assert batch.target_positions.tolist() == [0, 1, 2, 3, 4]
    assert batch.documents is not None
    mask = build_attention_mask(batch.documents, "sdpa")
    assert isinstance(mask, torch.Tensor)
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[:2, :2] = expected[2:5, 2:5] = expected[5:, 5:] = True  # padding sees padding, so that no row is empty
    assert torch.equal(mask[0, 0], expected.tril())


TEXT, CAPTIONS = 0, 1


def run_mixture(world: DistributedContext, share: float, steps: int) -> list[list[MicroBatch]]:
    """A rank's micro-batches in each of some steps with 32 sequences, up to four at once."""
    sources: list[SampleSource] = [Texts(), Pairs()]
    shares = [1 - share, share]
    mixture = Mixture(sources, shares, by="tokens", context=CONTEXT, stripes=32, seed=1, bad_samples_limit=0)
    with BatchLoader(mixture, FixedLengthCollator(CONTEXT, 4 * CONTEXT), peers=world.peers) as batches:
        return [list(batches.take_batch().micro_batches) for _ in range(steps)]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_no_row_of_text_goes_through_a_mask_of_documents(share: float, ranks: int) -> None:
    steps = 60
    found = on_threads(ranks, lambda world: run_mixture(world, share, steps))
    every = [part for of_rank in found for step in of_rank for part in step]
    masked = [part for part in every if part.documents is not None]
    assert masked
    assert sum(int((part.sources == TEXT).sum()) for part in masked) == 0
    rows = sum(len(part.tokens) for part in every if part.tokens.shape[1] == CONTEXT)
    assert rows == 32 * steps
    for step in zip(*found, strict=True):
        assert len({len(parts) for parts in step}) == 1


def sequences(*documents: int) -> list[PackedSequence]:
    """Sequences of 12 positions, of so many documents each."""
    return [join_documents([Document([7] * (12 // n + 1), [True] * (12 // n + 1))] * n, source=0) for n in documents]


def test_ranks_with_fewer_passes_begin_with_empty_ones() -> None:
    # 3 and 1 of a kind make two passes of two rows, and one; 4 of a kind make two passes
    rows = [sequences(1, 2, 1, 1), sequences(1, 1, 1, 1), sequences(2, 3, 2, 2)]
    counts = [SequenceCounts.from_sequence(sequence) for of_rank in rows for sequence in of_rank]
    found = on_threads(3, lambda world: FixedLengthCollator(12, 24).collate(rows[world.rank], counts, world.peers))
    shapes = [[tuple(part.tokens.shape) for part in parts] for parts, _ in found]
    assert shapes == [[(2, 12), (1, 12), (1, 12)], [(1, 1), (2, 12), (2, 12)], [(1, 1), (2, 12), (2, 12)]]
    masks = [[part.documents is not None for part in parts] for parts, _ in found]
    assert masks == [[False, False, True], [False] * 3, [False, True, True]]
    assert [positions for _, positions in found] == [3 * 4 * 12] * 3
    assert [len(parts[0].targets) for parts, _ in found[1:]] == [0, 0]
