"""Image files to square pixels, as Prismatic's transforms do it before the encoder's own normalisation.

Orientation marks (EXIF) and transparency are ignored, as there: the pixels count as they lie in the file.
"""

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stages.vision.specs import EncoderSpec

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_PIXELS = 1 << 26
"""A larger image is a bad sample: a small file can unpack to gigabytes."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded, whatever the file is called. Pillow knows more; for one of those (EPS) it starts a program."""

TransformKind = Literal["resize-naive", "letterbox"]


class BadImageError(ValueError):
    """Bytes that are not an image that can be used."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """From an image file's bytes to pixels (3, size, size), uint8."""

    size: int
    kind: TransformKind = "resize-naive"
    pad_colour: tuple[int, int, int] = (127, 127, 127)
    """Of a letterbox's borders, in 0..255."""

    @classmethod
    def from_spec(cls, spec: EncoderSpec, kind: TransformKind) -> "ImageTransform":
        """The transform before that encoder; the borders have its mean colour, cut to whole numbers."""
        red, green, blue = (int(255 * value) for value in spec.mean)
        return cls(spec.image_size, kind, (red, green, blue))

    def __call__(self, content: bytes) -> Tensor:
        """BadImageError for what is no usable image: no known format, cut off, or too large."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                check_size(image, self.kind)
                return self.transform_image(image)
        except UnidentifiedImageError as error:
            raise BadImageError(f"not a usable image: of none of the formats {', '.join(IMAGE_FORMATS)}") from error
        except (OSError, SyntaxError, ValueError, struct.error, EOFError) as error:
            raise BadImageError(f"not a usable image: {error}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadImageError(f"too large an image: {error}") from error

    def transform_image(self, image: "Image") -> Tensor:
        """An opened image to pixels (3, size, size), uint8."""
        rgb = convert_to_rgb(image)
        square = (
            letterbox_image(rgb, self.size, self.pad_colour)
            if self.kind == "letterbox"
            else resize_to_square(rgb, self.size)
        )
        planes = b"".join(channel.tobytes() for channel in square.split())
        return torch.frombuffer(bytearray(planes), dtype=torch.uint8).view(3, self.size, self.size)


def check_size(image: "Image", kind: TransformKind) -> None:
    """Before anything is decoded. A letterbox is square: a long thin image makes a large one."""
    width, height = (max(image.size),) * 2 if kind == "letterbox" else image.size
    if width * height > MAX_IMAGE_PIXELS:
        padded = " padded" if kind == "letterbox" else ""
        raise BadImageError(f"{image.width} x {image.height} pixels{padded}; the limit is {MAX_IMAGE_PIXELS}")


def convert_to_rgb(image: "Image") -> "Image":
    """Eight bits of red, green, blue. Grey of 16 bits is scaled to 8, which Pillow alone would clip to white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    image.info.pop("transparency", None)  # not used; Pillow would warn of a palette that has one
    return image.convert("RGB")


def resize_to_square(image: "Image", size: int) -> "Image":
    """Stretched to a square (resize-naive): bicubic, with Pillow's antialiasing, on 8-bit values."""
    from PIL.Image import Resampling

    return image if image.size == (size, size) else image.resize((size, size), Resampling.BICUBIC)


def letterbox_image(image: "Image", size: int, colour: tuple[int, int, int]) -> "Image":
    """Padded to a square, then resized.

    As Prismatic rounds: both borders are (longer - shorter) // 2 wide, so that an odd difference leaves one pixel to a
    square. The shorter side is brought to `size` and what the longer has more is cut off, half on each side.
    """
    from PIL import Image

    longest = max(image.size)
    left, top = ((longest - side) // 2 for side in image.size)
    padded = Image.new("RGB", (image.width + 2 * left, image.height + 2 * top), colour)
    padded.paste(image, (left, top))
    shorter = min(padded.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in padded.size)
    if padded.size != (width, height):
        padded = padded.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return padded.crop((left, top, left + size, top + size))
