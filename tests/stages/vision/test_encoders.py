import pytest
import torch

from stages.config import Vision
from stages.errors import ConfigError
from stages.vision.encoders import load_encoder_module

CPU = torch.device("cpu")


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
