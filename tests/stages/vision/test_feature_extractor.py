import pickle
from collections.abc import Container
from functools import partial

import pytest
import torch

from stages.config import Vision
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import BadSampleError
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.stages.training.training_case import png

CPU = torch.device("cpu")
SMALL = Vision(encoder="patches-16-32")


def reader(known: Container[str] = ()) -> EncoderImageReader:
    return EncoderImageReader(resolve_encoder_spec(SMALL.encoder), ImageTransform(32), None, known)


def test_an_image_is_decoded_and_encoded_once_while_there_is_room() -> None:
    runs: list[int] = []

    class Counting(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            runs.append(len(pixels))
            return pixels.flatten(1).view(len(pixels), 4, 768).float()

    eyes = FeatureExtractor(Counting(), CPU, memory_gib=2 * 4 * 768 * 4 / 2**30)  # room for two
    images = reader(eyes.cached_digests)
    red, blue, green = (images.read(colour, partial(png, colour)) for colour in ("red", "blue", "green"))
    seen = eyes.extract_features([red, blue, red])
    assert runs == [1, 1]  # one at a time, and the same image once
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(eyes.extract_features([green, blue])[1], seen[1])
    again = images.read("red", lambda: png("red"))
    assert again.pixels is None, "what is in memory must not be decoded again"
    assert torch.equal(eyes.extract_features([again])[0], seen[0])
    assert images.read("green", lambda: png("green")).pixels is not None
    assert runs == [1, 1, 1]
    with pytest.raises(ValueError, match="neither pixels nor features"):
        eyes.extract_features([ImageInput("f" * 64)])


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
    seen = FeatureExtractor(None, CPU).extract_features(pictures)
    assert (seen.shape, seen.dtype) == ((2, 3, 32, 32), torch.uint8)
    assert seen[1, :, 3, 3].tolist() == [0, 0, 255]
