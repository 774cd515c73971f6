"""What a second device needs. The meta device stands in for one: it refuses tensors of the CPU beside its own."""

from dataclasses import fields

import pytest
import torch

from stages.data.collate import MicroBatch, collate_sequences, count_loss_terms
from stages.data.packing import SequenceCounts, join_documents
from stages.data.sample import Document
from stages.distributed import resolve_micro_batch_tokens
from stages.models.attention import build_attention_mask
from stages.vision.image_input import ImageInput

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
