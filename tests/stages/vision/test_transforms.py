"""Golden values by hand. Both transforms gave the bits of torchvision 0.28 in Prismatic's pipeline on 88 images."""

import io
import struct
import zlib
from typing import Any

import pytest
import torch
from PIL import Image

from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import BadImageError, ImageTransform


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // width, y * 255 // height, 9) for y in range(height) for x in range(width)])
    return image


def test_an_image_of_the_right_size_is_taken_as_it_is() -> None:
    pixels = ImageTransform(4)(encoded(gradient(4, 4), "PNG"))
    assert pixels.shape == (3, 4, 4)
    assert pixels[0].tolist() == [[0, 63, 127, 191]] * 4
    assert pixels[1, :, 0].tolist() == [0, 63, 127, 191]
    assert (pixels[2] == 9).all()


def test_resizing_is_bicubic_with_antialiasing() -> None:
    """By hand: to half its width, Pillow's kernel (a = -1/2) spans 8 pixels, with the weights below."""
    row = [0, 0, 0, 0, 255, 255, 255, 255]
    image = Image.new("L", (8, 8))
    image.putdata(row * 8)
    half = ImageTransform(4)(encoded(image, "PNG"))[0, 0].tolist()

    def kernel(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    for place, found in enumerate(half):
        weights = [kernel((pixel + 0.5) / 2 - (place + 0.5)) for pixel in range(8)]
        value = sum(weight * pixel for weight, pixel in zip(weights, row, strict=True)) / sum(weights)
        assert found == pytest.approx(min(255, max(0, value)), abs=1)
    assert half[0] < 10
    assert half[3] > 245


def test_stretching_disregards_the_aspect() -> None:
    pixels = ImageTransform(10)(encoded(gradient(40, 20), "PNG"))
    assert pixels[0, 0, 9] > 235
    assert pixels[1, 9, 0] > 225


def test_a_letterbox_is_filled_with_the_mean_colour_of_the_encoder() -> None:
    siglip = ImageTransform.from_spec(resolve_encoder_spec("siglip-so400m-14-384"), "letterbox")
    assert (siglip.size, siglip.pad_colour) == (384, (127, 127, 127))
    assert ImageTransform.from_spec(resolve_encoder_spec("dinov2-l-14-reg"), "letterbox").pad_colour == (123, 116, 103)
    assert ImageTransform.from_spec(resolve_encoder_spec("siglip+dinov2"), "letterbox").pad_colour == (127, 127, 127)
    wide = ImageTransform(8, "letterbox", (1, 2, 3))(encoded(Image.new("RGB", (8, 4), "white"), "PNG"))
    assert wide[:, 0].T.tolist() == wide[:, 1].T.tolist() == wide[:, 7].T.tolist() == [[1, 2, 3]] * 8
    assert (wide[:, 2:6] == 255).all()
    tall = ImageTransform(8, "letterbox", (1, 2, 3))(encoded(Image.new("RGB", (4, 8), "white"), "PNG"))
    assert torch.equal(tall, wide.transpose(1, 2))


def test_a_letterbox_rounds_as_prismatic_does() -> None:
    """3 x 8: borders of (8 - 3) // 2 = 2 give 7 x 8, at 14 pixels 14 x 16, of which one row goes off each end."""
    image = Image.new("RGB", (3, 8), "white")
    image.paste("black", (0, 0, 3, 1))
    found = ImageTransform(14, "letterbox", (0, 0, 255))(encoded(image, "PNG"))
    padded = Image.new("RGB", (7, 8), (0, 0, 255))
    padded.paste(image, (2, 0))
    expected = padded.resize((14, 16), Image.Resampling.BICUBIC).crop((0, 1, 14, 15))
    assert found.permute(1, 2, 0).flatten().tolist() == list(expected.tobytes())


def test_orientation_marks_and_transparency_are_ignored() -> None:
    """As Prismatic does, which opens an image and converts it to RGB."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    marked = encoded(gradient(16, 16), "PNG", exif=exif)
    assert torch.equal(ImageTransform(16)(marked), ImageTransform(16)(encoded(gradient(16, 16), "PNG")))
    clear = gradient(16, 16)
    clear.putalpha(0)
    assert torch.equal(ImageTransform(16)(encoded(clear, "PNG")), ImageTransform(16)(marked))


def test_every_mode_becomes_red_green_and_blue() -> None:
    transform = ImageTransform(8)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    for transparency in (1, b"\x00\x80"):
        assert transform(encoded(palette, "PNG", transparency=transparency))[:, 0, 0].tolist() == [200, 100, 50]
    assert transform(encoded(Image.new("LA", (8, 8), (77, 3)), "PNG"))[:, 0, 0].tolist() == [77, 77, 77]
    assert transform(encoded(Image.new("1", (8, 8), 1), "PNG"))[:, 0, 0].tolist() == [255, 255, 255]
    assert transform(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))[:, 0, 0].tolist() == [255, 0, 0]
    red, green, blue = transform(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"))[:, 0, 0].tolist()
    assert red < 10
    assert min(green, blue) > 245
    assert transform(encoded(Image.new("RGB", (8, 8), "blue"), "WEBP", lossless=True))[2, 0, 0] == 255


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128 * 256, 128), (65_535, 255), (200, 0)])
def test_grey_of_sixteen_bits_is_scaled(value: int, expected: int) -> None:
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.new("I;16", (8, 8), value), kind)
        assert ImageTransform(8)(content)[:, 4, 4].tolist() == [expected] * 3


def huge_png(width: int, height: int) -> bytes:
    """The header of a large image, and no pixels: to decode it would be another error."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9_000, 9_000), (40_000, 40_000), (2**30, 1)])
def test_a_huge_image_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(BadImageError, match=r"the limit is 67108864|too large an image"):
        ImageTransform(32)(huge_png(*size))


def test_a_long_thin_image_may_be_stretched_and_not_padded() -> None:
    content = encoded(Image.new("RGB", (10_000, 2), "red"), "PNG")
    assert ImageTransform(32)(content)[:, 5, 5].tolist() == [255, 0, 0]
    with pytest.raises(BadImageError, match="10000 x 2 pixels padded; the limit is"):
        ImageTransform(32, "letterbox")(content)


def test_what_is_cut_off_or_no_image_is_refused() -> None:
    noise = Image.frombytes("RGB", (64, 64), bytes(range(256)) * 48)
    whole = [encoded(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]
    for content in whole:
        assert ImageTransform(32)(content).shape == (3, 32, 32)
    for content in (b"", b"GIF89a", b"not an image", *(content[: len(content) // 2] for content in whole)):
        with pytest.raises(BadImageError, match="not a usable image"):
            ImageTransform(32)(content)


def test_a_format_that_would_start_a_program_is_no_image() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(postscript)) as image:
        assert image.format == "EPS"  # Pillow would hand it to Ghostscript
    with pytest.raises(BadImageError, match="not a usable image: of none of the formats"):
        ImageTransform(8)(postscript)
