"""VLM.forward: what the training loop calls, alone or within DDP and FSDP; and what becomes of images."""

import pytest
import torch
from torch import Tensor, nn

from stages.config import LanguageModel, Vision
from stages.data.collate import MicroBatch
from stages.models.loss import LossSettings, compute_token_loss
from stages.models.vlm import VLM

MODEL = LanguageModel(d_model=32, layers=2, heads=2, vocabulary=60)
PATCHES = Vision(encoder="patches-16-32")  # four tokens of 768 numbers


def batch(images: Tensor | None = None) -> MicroBatch:
    """Two sequences of 12; with images one at the head of each, without loss on it."""
    torch.manual_seed(1)
    tokens, targets = torch.randint(0, 60, (2, 12)), torch.randint(0, 60, (24,))
    learned = torch.tensor([i for i in range(24) if i % 12 >= 4])
    return MicroBatch(
        tokens=tokens,
        targets=targets[learned],
        target_positions=learned,
        sources=torch.zeros_like(learned),
        documents=None,
        image_inputs=(),
        images=images,
        image_positions=torch.tensor([range(4), range(12, 16)]) if images is not None else None,
    )


def model(encoder: nn.Module | None = None) -> VLM:
    torch.manual_seed(0)
    return VLM(MODEL, PATCHES, encoder)


def test_the_loss_is_that_of_the_targets_alone_whatever_the_chunks() -> None:
    vlm, given = model(), batch(torch.randn(2, 4, 768))
    hidden = vlm.lm.compute_hidden(vlm.embed(given.tokens, given.images, given.image_positions)).flatten(0, 1)
    assert given.target_positions is not None
    logits = vlm.lm.compute_logits(hidden[given.target_positions])
    expected, expected_entropies = compute_token_loss(
        logits, given.targets, count=40, settings=LossSettings(z_loss=1e-3)
    )
    for chunk in (0, 5, 16, 1_000):
        loss, entropies = vlm(given, count=40, settings=LossSettings(z_loss=1e-3, chunk_tokens=chunk))
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(entropies, expected_entropies)
        assert not entropies.requires_grad


def test_parts_of_a_batch_add_up_to_its_gradient() -> None:
    vlm, given = model(), batch(torch.randn(2, 4, 768))
    vlm(given, count=16, settings=LossSettings(z_loss=1e-3))[0].backward()
    whole = {name: parameter.grad for name, parameter in vlm.iter_named_weights()}
    vlm.zero_grad()
    assert given.images is not None
    assert given.target_positions is not None
    for row in range(2):
        part = MicroBatch(
            tokens=given.tokens[row : row + 1],
            targets=given.targets[8 * row : 8 * row + 8],
            target_positions=given.target_positions[:8],
            sources=given.sources[:8],
            documents=None,
            image_inputs=(),
            images=given.images[row : row + 1],
            image_positions=torch.tensor([range(4)]),
        )
        vlm(part, count=16, settings=LossSettings(z_loss=1e-3, chunk_tokens=3))[0].backward()
    for name, parameter in vlm.iter_named_weights():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-3, atol=1e-6)


def test_without_images_what_they_go_through_has_a_gradient_of_zero_and_the_loss_is_unchanged() -> None:
    vlm = model(encoder=nn.Linear(768, 768))
    loss, _ = vlm(batch(), count=16, settings=LossSettings())
    loss.backward()
    image_path = {name: p for name, p in vlm.iter_named_weights() if name.startswith(("projector.", "encoder."))}
    assert len(image_path) == 6
    for parameter in image_path.values():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    text = VLM(MODEL)
    text.load_weights({name: weight for name, weight in vlm.collect_weights().items() if name not in image_path})
    assert torch.equal(text(batch(), count=16, settings=LossSettings())[0], loss)


def test_a_trained_encoder_is_a_part_of_the_checkpoint_and_learns() -> None:
    vlm = model(encoder=nn.Linear(768, 768))
    vlm(batch(torch.randn(2, 4, 768)), count=16, settings=LossSettings())[0].backward()
    assert vlm.encoder is not None
    gradients = [parameter.grad for parameter in vlm.encoder.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    weights = vlm.collect_weights()
    assert {"encoder.weight", "encoder.bias"} < weights.keys()
    other = VLM(MODEL, PATCHES, nn.Linear(768, 768))
    other.load_weights(weights)
    assert torch.equal(other.collect_weights()["encoder.weight"], weights["encoder.weight"])


def test_a_checkpoint_without_images_leaves_projector_and_encoder_as_they_are() -> None:
    vlm, text = model(encoder=nn.Linear(768, 768)), VLM(MODEL)
    before = {name: weight.clone() for name, weight in vlm.collect_weights().items()}
    vlm.load_weights(text.collect_weights(), new_projector=True)
    after = vlm.collect_weights()
    assert torch.equal(after["projector.0.weight"], before["projector.0.weight"])
    assert torch.equal(after["encoder.weight"], before["encoder.weight"])
    assert torch.equal(after["output.weight"], text.collect_weights()["output.weight"])


SMALL = Vision(encoder="patches-16-32")


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("gelu-mlp", 2), ("fused-gelu-mlp", 3)])
def test_projectors_bring_features_to_the_models_width(kind: str, layers: int) -> None:
    vision = Vision.model_validate({"encoder": "patches-16-32", "projector": kind})
    vlm = VLM(LanguageModel(d_model=48, layers=1, heads=2, vocabulary=20), vision)
    assert sum("weight" in name for name in vlm.collect_weights() if name.startswith("projector.")) == layers
    assert vlm.project(torch.zeros(2, 4, 768)).shape == (2, 4, 48)
    assert vlm.image_tokens == 4


def test_images_take_their_places_among_the_tokens() -> None:
    vlm = VLM(LanguageModel(d_model=48, layers=1, heads=2, vocabulary=20), SMALL)
    tokens = torch.arange(12).view(2, 6)
    features = torch.randn(1, 4, 768)
    embeddings = vlm.embed(tokens, features, torch.arange(7, 11)[None])
    torch.testing.assert_close(embeddings[1, 1:5], vlm.project(features)[0])
    torch.testing.assert_close(embeddings[0], vlm.lm.embed(tokens)[0])
    torch.testing.assert_close(embeddings[1, [0, 5]], vlm.lm.embed(tokens)[1, [0, 5]])
