"""Frozen image encoders: an image to features (image tokens, feature width). Sizes stand in `stages.encoders`."""

import io
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from stages.config import Vision
from stages.encoders import EncoderSpec, UnknownEncoderError, encoder_spec
from stages.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_PIXELS = 1 << 26
"""A larger image is a bad sample: a small file can unpack to gigabytes."""


class BadImageError(ValueError):
    """Bytes that are not an image that can be used."""


class Encoder(Protocol):
    """A frozen encoder. `encode` may run on any number of images; the features of one do not depend on the others
    except for rounding, so what must be repeatable to the bit encodes one image at a time.
    """

    spec: EncoderSpec

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, size, size) of 0..255, uint8, to float32 features (N, image tokens, feature width)."""
        ...


class Patches:
    """No encoder: the pixels of each square patch, scaled to -1..1; rows of patches from the top left."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def encode(self, pixels: Tensor) -> Tensor:
        patch = self.spec.patch_size
        side = self.spec.image_size // patch
        x = pixels[:, :, : side * patch, : side * patch].float() / 127.5 - 1
        x = x.reshape(len(x), 3, side, patch, side, patch)  # N, 3, rows, patch, columns, patch
        return x.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), side * side, 3 * patch * patch)


def load_encoder(vision: Vision, device: torch.device | None = None) -> Encoder:
    """The encoder that `vision` names; ConfigError if it is unknown or cannot be run yet."""
    try:
        spec = encoder_spec(vision.encoder)
    except UnknownEncoderError as error:
        raise ConfigError(str(error)) from error
    if not vision.frozen and not spec.name.startswith("patches"):
        raise ConfigError(f"encoder {spec.name!r}: training the encoder is not supported; use frozen: true")
    if spec.name.startswith("patches"):
        return Patches(spec)
    if spec.name.startswith("efficientnet-lite0"):
        from stages.efficientnet import EfficientNetLite0

        return EfficientNetLite0(spec, device or torch.device("cpu"))
    raise ConfigError(f"encoder {spec.name!r} cannot be run yet; patches and efficientnet-lite0 can")


def decode_image(content: bytes, size: int) -> Tensor:
    """Image file bytes to pixels (3, size, size), uint8; BadImageError for what is no usable image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise BadImageError(f"{image.width} x {image.height} pixels; the limit is {MAX_IMAGE_PIXELS}")
            return image_pixels(image, size)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise BadImageError(f"not a usable image: {error}") from error


def image_pixels(image: "Image", size: int) -> Tensor:
    """An opened image to pixels (3, size, size), uint8: RGB, resized without regard to its aspect (bicubic)."""
    from PIL.Image import Resampling

    rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Resampling.BICUBIC)
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(size, size, 3).permute(2, 0, 1).contiguous()


def encode_images(encoder: Encoder, images: Sequence[bytes], batch: int = 32) -> Tensor:
    """Features (N, image tokens, feature width) of image files; BadImageError names the first bad one by number."""
    size, features = encoder.spec.image_size, []
    for start in range(0, len(images), batch):
        pixels = torch.stack([decode_image(content, size) for content in images[start : start + batch]])
        features.append(encoder.encode(pixels))
    return torch.cat(features)
