"""Answers, likelihoods and features on the device equal those of the CPU, one sequence at a time."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_check.encoder import build_random_encoder
from stages.config import LanguageModel, Vision
from stages.models.generation import generate_greedy
from stages.models.likelihood import LikelihoodRequest, compute_log_likelihoods
from stages.models.vlm import VLM
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [1], [3, 3, 3, 3], [9, 8]]
NEW_TOKENS = 8
REQUESTS: list[LikelihoodRequest] = [
    ((1, 2, 3), [4, 5]), ((1, 2, 3), [6]), ((1, 2, 3), [7, 8, 9]), ((4,), [5, 6]), ((10, 11, 12, 13), [14]),
]  # fmt: skip


@pytest.fixture
def vlm() -> VLM:
    """On the CPU, in float32."""
    torch.manual_seed(0)
    model = LanguageModel(d_model=64, layers=2, heads=2, vocabulary=60)
    return VLM(model, Vision(encoder="patches-16-32")).eval()


def answer_alone(vlm: VLM, prompt: list[int], image: Tensor | None) -> Iterator[int]:
    """One full forward for each token: no cache, no batch, no padding."""
    tokens = list(prompt)
    for _ in range(NEW_TOKENS):
        embeddings = vlm.embed(torch.tensor([tokens]))
        if image is not None:
            embeddings = torch.cat((vlm.project(image[None]), embeddings), dim=1)
        tokens.append(int(vlm.lm(inputs_embeds=embeddings)[0, -1].argmax()))
        yield tokens[-1]


@torch.inference_mode()
@pytest.mark.parametrize("pictured", [False, True], ids=["text", "images"])
def test_answers_in_batches_are_those_of_one_sequence_at_a_time(device: torch.device, vlm: VLM, pictured: bool) -> None:
    images = torch.randn(len(PROMPTS), 4, 768) if pictured else None
    expected = [
        list(answer_alone(vlm, prompt, None if images is None else images[number]))
        for number, prompt in enumerate(PROMPTS)
    ]
    for batch_size in (1, 5):
        found = generate_greedy(
            vlm.to(device), PROMPTS, max_new_tokens=NEW_TOKENS, stop_token=-1, features=images, batch_size=batch_size
        )
        assert found == expected


@torch.inference_mode()
@pytest.mark.parametrize("pictured", [False, True], ids=["text", "images"])
def test_likelihoods_are_those_of_the_cpu_one_request_at_a_time(device: torch.device, vlm: VLM, pictured: bool) -> None:
    images = torch.randn(len(REQUESTS), 4, 768) if pictured else None
    expected = [
        compute_log_likelihoods(vlm, [request], features=None if images is None else images[number][None])[0]
        for number, request in enumerate(REQUESTS)
    ]
    found = compute_log_likelihoods(vlm.to(device), REQUESTS, features=images)
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.log_probability == pytest.approx(wanted.log_probability, abs=1e-3)
        assert ours.is_greedy == wanted.is_greedy


def test_a_frozen_encoders_features_are_those_of_the_cpu_in_float32(device: torch.device) -> None:
    vision = Vision(encoder="siglip-tiny-32")
    size = resolve_encoder_spec(vision.encoder).image_size
    torch.manual_seed(0)
    encoder = build_random_encoder(vision, torch.device("cpu"))
    pixels = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8)
    with torch.no_grad():
        exact = encoder(pixels)
    extractor = FeatureExtractor(encoder.to(device), device, feature_dtype=torch.bfloat16)
    found = extractor.extract_features([ImageInput(f"{number:064x}", pixels=one) for number, one in enumerate(pixels)])
    assert found.device.type == device.type
    # autocast and the features' own type are bfloat16, with 8 binary digits
    assert (found.cpu() - exact).norm() <= 0.02 * exact.norm()
