import pickle
from collections.abc import Container
from functools import partial

import pytest
import torch

from stages.config import LanguageModel, Vision
from stages.data.images import PictureReader
from stages.data.sample import BadSampleError
from stages.errors import ConfigError
from stages.models.vlm import VLM
from stages.vision.encoders import load_encoder_module
from stages.vision.feature_extractor import Eyes
from stages.vision.image_input import Picture
from stages.vision.specs import encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.training.training_case import png

CPU = torch.device("cpu")
SMALL = Vision(encoder="patches-16-32")


def reader(known: Container[str] = ()) -> PictureReader:
    return PictureReader(encoder_spec(SMALL.encoder), ImageTransform(32), None, known)


def test_a_patch_is_its_pixels_from_minus_one_to_one() -> None:
    encoder = load_encoder_module(Vision(encoder="patches-16-64"), (), CPU)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = encoder(pixels)
    assert features.shape == (2, 16, 768)
    expected = pixels[1, :, 16:32, 48:64].float() / 127.5 - 1  # second row, fourth column
    torch.testing.assert_close(features[1, 1 * 4 + 3], expected.reshape(-1))


def test_the_frozen_network_gives_the_features_of_its_imagenet_weights() -> None:
    """Reference: efficientnet_lite_pytorch's network in evaluation mode, with the same weights, on the same pixels."""
    encoder = load_encoder_module(Vision(encoder="efficientnet-lite0"), (), CPU)
    pixels = torch.arange(3 * 64 * 64).view(1, 3, 64, 64).mul(7).remainder(256).to(torch.uint8)
    features = encoder(pixels)
    assert features.shape == (1, 16, 272)
    torch.testing.assert_close(features[0, 0, :3], torch.tensor(REFERENCE_FIRST), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(features[0, 15, -2:], torch.tensor(REFERENCE_LAST), atol=1e-3, rtol=1e-4)
    both = encoder(torch.cat((pixels, 255 - pixels)))
    torch.testing.assert_close(both[:1], features, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(both[1], features[0], atol=1.0)


REFERENCE_FIRST, REFERENCE_LAST = [4.0470, 24.1446, 4.7963], [-3.9700, -13.8288]


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        (Vision(encoder="siglip-so400m-14-384"), "0 folders of weights; it takes one of siglip-so400m-14-384"),
        (Vision(encoder="no-such-encoder"), "unknown"),
        (Vision(encoder="efficientnet-lite0", frozen=False), "use frozen: true"),
    ],
)
def test_an_encoder_that_cannot_be_run_is_a_clear_error(vision: Vision, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_encoder_module(vision, (), CPU)


def test_an_image_is_decoded_and_encoded_once_while_there_is_room() -> None:
    runs: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            runs.append(len(pixels))
            return pixels.flatten(1).view(len(pixels), 4, 768).float()

    eyes = Eyes(Counting(), CPU, memory_gib=2 * 4 * 768 * 4 / 2**30)  # room for two
    images = reader(eyes.known)
    red, blue, green = (images.read(colour, partial(png, colour)) for colour in ("red", "blue", "green"))
    seen = eyes.look([red, blue, red])
    assert runs == [1, 1]  # one at a time, and the same image once
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(eyes.look([green, blue])[1], seen[1])
    again = images.read("red", lambda: png("red"))
    assert again.pixels is None, "what is in memory must not be decoded again"
    assert torch.equal(eyes.look([again])[0], seen[0])
    assert images.read("green", lambda: png("green")).pixels is not None
    assert runs == [1, 1, 1]
    with pytest.raises(ValueError, match="neither pixels nor features"):
        eyes.look([Picture("f" * 64)])


def test_an_image_that_cannot_be_used_is_named() -> None:
    with pytest.raises(BadSampleError, match="shard-3: 00017: not a usable image"):
        reader().read("shard-3: 00017", lambda: b"")


def test_a_reader_in_another_process_knows_nothing_of_this_ones_memory() -> None:
    digest = reader().read("red", lambda: png("red")).digest
    here = reader({digest})
    assert here.read("red", lambda: png("red")).pixels is None
    there = pickle.loads(pickle.dumps(here))  # noqa: S301 - made here
    assert there.read("red", lambda: png("red")).pixels is not None
    assert there.image_tokens == 4


def test_a_model_with_an_encoder_of_its_own_is_given_pixels() -> None:
    pictures = [reader().read(colour, partial(png, colour)) for colour in ("red", "blue")]
    seen = Eyes(None, CPU).look(pictures)
    assert (seen.shape, seen.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert seen[1, :, 3, 3].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("gelu-mlp", 2), ("fused-gelu-mlp", 3)])
def test_projectors_bring_features_to_the_models_width(kind: str, layers: int) -> None:
    vision = Vision.model_validate({"encoder": "patches-16-32", "projector": kind})
    vlm = VLM(LanguageModel(d_model=48, layers=1, heads=2, vocabulary=20), vision)
    assert sum("weight" in name for name in vlm.weights() if name.startswith("projector.")) == layers
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
