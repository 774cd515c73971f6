import io

import pytest
import torch
from PIL import Image

from stages.config import LanguageModel, Vision
from stages.data.images import FeatureCache
from stages.data.sample import BadSampleError
from stages.errors import ConfigError
from stages.vision import BadImageError, decode_image, encode_images, load_encoder
from stages.vlm import VLM
from tests.stages.training_case import png


def test_a_patch_is_its_pixels_from_minus_one_to_one() -> None:
    encoder = load_encoder(Vision(encoder="patches-16-64"))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = encoder.encode(pixels)
    assert features.shape == (2, 16, 768)
    expected = pixels[1, :, 16:32, 48:64].float() / 127.5 - 1  # second row, fourth column
    torch.testing.assert_close(features[1, 1 * 4 + 3], expected.reshape(-1))


def test_the_frozen_network_gives_the_features_of_its_imagenet_weights() -> None:
    """Reference: efficientnet_lite_pytorch's network in evaluation mode, with the same weights, on the same pixels."""
    encoder = load_encoder(Vision(encoder="efficientnet-lite0"))
    pixels = torch.arange(3 * 64 * 64).view(1, 3, 64, 64).mul(7).remainder(256).to(torch.uint8)
    features = encoder.encode(pixels)
    assert features.shape == (1, 16, 272)
    torch.testing.assert_close(features[0, 0, :3], torch.tensor(REFERENCE_FIRST), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(features[0, 15, -2:], torch.tensor(REFERENCE_LAST), atol=1e-3, rtol=1e-4)
    both = encoder.encode(torch.cat((pixels, 255 - pixels)))
    torch.testing.assert_close(both[:1], features, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(both[1], features[0], atol=1.0)


REFERENCE_FIRST, REFERENCE_LAST = [4.0470, 24.1446, 4.7963], [-3.9700, -13.8288]


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        (Vision(encoder="siglip-so400m-14-384"), "cannot be run yet"),
        (Vision(encoder="no-such-encoder"), "unknown"),
        (Vision(encoder="efficientnet-lite0", frozen=False), "use frozen: true"),
    ],
)
def test_an_encoder_that_cannot_be_run_is_a_clear_error(vision: Vision, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_encoder(vision)


def test_images_of_any_kind_become_pixels_of_one_size() -> None:
    for mode in ("RGB", "L", "RGBA", "P", "CMYK"):
        buffer = io.BytesIO()
        Image.new(mode, (40, 70)).save(buffer, "TIFF")
        assert decode_image(buffer.getvalue(), 32).shape == (3, 32, 32)
    red = decode_image(png("red"), 32)
    assert red[:, 5, 5].tolist() == [255, 0, 0]
    features = encode_images(load_encoder(Vision(encoder="patches-16-32")), [png("red"), png("blue")])
    assert features.shape == (2, 4, 768)


def test_what_is_no_image_or_too_large_a_one_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    for content in (b"", b"GIF89a", png("red")[:50], buffer.getvalue()):
        with pytest.raises(BadImageError):
            decode_image(content, 32)


def test_an_image_is_encoded_once_while_there_is_room() -> None:
    reads = []

    def read() -> bytes:
        reads.append(1)
        return png("red")

    encoder = load_encoder(Vision(encoder="patches-16-32"))
    roomy, full = FeatureCache(encoder, limit_gib=0.01), FeatureCache(encoder, limit_gib=0)
    first = roomy.features("set", 0, "where", read)
    assert torch.equal(roomy.features("set", 0, "where", read), first)
    assert len(reads) == 1
    full.features("set", 0, "where", read)
    full.features("set", 0, "where", read)
    assert len(reads) == 3
    with pytest.raises(BadSampleError, match="where: not a usable image"):
        roomy.features("set", 1, "where", lambda: b"")


@pytest.mark.parametrize(("kind", "layers"), [("linear", 1), ("gelu-mlp", 2), ("fused-gelu-mlp", 3)])
def test_projectors_bring_features_to_the_models_width(kind: str, layers: int) -> None:
    vision = Vision.model_validate({"encoder": "patches-16-32", "projector": kind})
    vlm = VLM(LanguageModel(d_model=48, layers=1, heads=2, vocabulary=20), vision)
    assert sum("weight" in name for name in vlm.weights() if name.startswith("projector.")) == layers
    assert vlm.project(torch.zeros(2, 4, 768)).shape == (2, 4, 48)
    assert vlm.image_tokens == 4


def test_images_take_their_places_among_the_tokens() -> None:
    vlm = VLM(LanguageModel(d_model=48, layers=1, heads=2, vocabulary=20), Vision(encoder="patches-16-32"))
    tokens = torch.arange(12).view(2, 6)
    features = torch.randn(1, 4, 768)
    embeddings = vlm.embed(tokens, features, torch.arange(7, 11)[None])
    torch.testing.assert_close(embeddings[1, 1:5], vlm.project(features)[0])
    torch.testing.assert_close(embeddings[0], vlm.lm.embed(tokens)[0])
    torch.testing.assert_close(embeddings[1, [0, 5]], vlm.lm.embed(tokens)[1, [0, 5]])
