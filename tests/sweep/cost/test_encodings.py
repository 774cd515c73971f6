"""How often an image is encoded: by hand, and beside the stages' own memory of features."""

import random

import pytest
import torch
from torch import Tensor, nn

from stages.job_file import Settings
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from sweep.catalog import TaskEntry, load_catalog
from sweep.cost.estimate import FEATURE_MEMORY_GIB, GIB, count_encodings, count_remembered, count_task_encodings

FEATURES = 8
IMAGE_BYTES = 4 * FEATURES


def test_what_fits_into_memory_is_encoded_once_and_all_else_at_each_draw() -> None:
    assert count_encodings(400, examples=100, images=100, remembered=100) == 100
    assert count_encodings(400, examples=100, images=100, remembered=25) == 25 + 4 * 75
    assert count_encodings(400, examples=100, images=100, remembered=0) == 400
    assert count_encodings(60, examples=100, images=100, remembered=25) == pytest.approx(
        60
    )  # not one epoch: each image is new
    assert count_encodings(500, examples=0, images=0, remembered=25) == 500  # nobody knows how many there are
    # two processes, each with half of an epoch and a memory of its own
    assert count_encodings(100, examples=100, images=100, remembered=100, processes=2) == pytest.approx(100)


def test_the_default_memory_is_the_stages_own() -> None:
    assert Settings().feature_cache_gib == FEATURE_MEMORY_GIB
    assert count_remembered(729 * 1_152 * 2, 1.0) == 639  # SigLIP at 384 px


class Eyes(nn.Module):
    """Counts what it sees."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), 1, FEATURES)


@pytest.mark.parametrize(("images", "shown", "remembered"), [(50, 1, 50), (50, 1, 20), (50, 2, 20), (50, 1, 0)])
def test_the_estimate_is_what_a_training_process_encodes(images: int, shown: int, remembered: int) -> None:
    """Three epochs and a half through `images` images, each in `shown` samples."""
    memory = (remembered + 0.5) * IMAGE_BYTES / GIB
    extractor = FeatureExtractor(Eyes(), torch.device("cpu"), memory_gib=memory)
    samples = [number for number in range(images) for _ in range(shown)]
    rng, draws = random.Random(0), []
    for _ in range(4):
        draws += rng.sample(samples, len(samples))
    draws = draws[: round(3.5 * len(samples))]
    for number in draws:
        extractor.extract_features([ImageInput(f"{number}", torch.zeros(3, 2, 2, dtype=torch.uint8))])
    expected = count_encodings(len(draws), examples=len(samples), images=images, remembered=remembered)
    assert extractor.encoded_images == pytest.approx(expected, rel=0.05)


def task(documents: int, images: int, rounds: int, new: int | None = None) -> TaskEntry:
    return TaskEntry(
        name="t", source="", documents=documents, requests=1, text_tokens=1, with_image=True, images=images,
        round_images=rounds, new_images=new,
    )  # fmt: skip


def test_an_evaluation_encodes_an_image_once_while_it_is_remembered_else_once_a_round() -> None:
    pope = load_catalog().find_task("pope", with_image=True)
    assert (pope.documents, pope.images) == (9_000, 500)
    assert count_task_encodings([pope], remembered=639) == 500
    assert count_task_encodings([pope], remembered=0) == 1_536
    # the second task shows half of the first one's images again
    assert count_task_encodings([task(100, 40, 40), task(100, 40, 40, new=20)], remembered=60) == 60
    # room for the first task alone: of the second one's images the old half is remembered
    assert count_task_encodings([task(100, 40, 40), task(100, 40, 50, new=20)], remembered=40) == 40 + 25
    text = TaskEntry(name="t", source="", documents=100, requests=4, text_tokens=10)
    assert count_task_encodings([text], remembered=0) == 0


def test_pubmedqa_has_its_test_documents() -> None:
    assert load_catalog().find_task("pubmedqa", with_image=False).documents == 500
