"""Draws a scene: anti-aliased shapes with a soft shadow on a lightly shaded background."""

import io
import math
import random

from PIL import Image, ImageDraw, ImageFilter

from stages.demo.scenes import Scene

SIZE = 64
"""Width and height of an image, in pixels."""
OVERSAMPLING = 3
CANVAS = SIZE * OVERSAMPLING
QUARTER = CANVAS // 2
TILE = QUARTER * 5 // 4
"""Room for one shape of any size and turn."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

SHAPE_COLOURS: dict[str, Colour] = {
    "red": (220, 38, 47),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 44),
    "green": (52, 168, 83),
    "blue": (38, 116, 235),
    "purple": (139, 62, 199),
}
BACKGROUND_COLOURS: dict[str, Colour] = {
    "white": (246, 247, 249),
    "grey": (150, 156, 165),
    "black": (28, 29, 33),
    "cream": (244, 226, 190),
    "navy": (27, 42, 92),
    "teal": (58, 148, 150),
}
CELLS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Quarters of the image: shapes stand in different quarters, so that none hides another."""


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """An RGB image of SIZE x SIZE; `rng` places, sizes and turns the shapes."""
    canvas = _background(BACKGROUND_COLOURS[scene.background], rng)
    colours = [group.colour for group in scene.groups for _ in range(group.count)]
    shapes = [group.shape for group in scene.groups for _ in range(group.count)]
    cells = rng.sample(CELLS, len(shapes))
    for colour, shape, cell in zip(colours, shapes, cells, strict=True):
        _place(canvas, shape, SHAPE_COLOURS[colour], cell, rng)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG: lossless, and the same bytes for the same Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _background(colour: Colour, rng: random.Random) -> Image.Image:
    """A vertical gradient about `colour`, so that the model cannot count pixels of one exact value."""
    tilt = rng.uniform(-0.10, 0.10)
    ramp = Image.linear_gradient("L").resize((CANVAS, CANVAS))
    dark, light = (_scaled(colour, 1 + sign * tilt) for sign in (-1, 1))
    return Image.composite(Image.new("RGB", ramp.size, light), Image.new("RGB", ramp.size, dark), ramp)


def _place(canvas: Image.Image, shape: str, colour: Colour, cell: tuple[int, int], rng: random.Random) -> None:
    radius = rng.uniform(0.34, 0.46) * QUARTER
    slack = QUARTER / 2 - radius
    tile = _mask(shape, radius, rng.uniform(-0.25, 0.25))
    left, top = (round((index + 0.5) * QUARTER + rng.uniform(-slack, slack) - TILE / 2) for index in cell)
    shadow = tile.filter(ImageFilter.BoxBlur(OVERSAMPLING)).point(_a_third)
    canvas.paste((0, 0, 0), (left + OVERSAMPLING, top + int(1.5 * OVERSAMPLING)), shadow)
    canvas.paste(_scaled(colour, rng.uniform(0.94, 1.06)), (left, top), tile)


def _a_third(value: float) -> float:
    return value * 0.35


def _mask(shape: str, radius: float, angle: float) -> Image.Image:
    """TILE x TILE, white where the shape is; its centre is the tile's."""
    mask = Image.new("L", (TILE, TILE), 0)
    pen = ImageDraw.Draw(mask)
    if shape == "moon":
        bite = 0.5 * radius * math.cos(angle), 0.5 * radius * math.sin(angle)
        pen.ellipse(_disc((0.0, 0.0), radius), fill=255)
        pen.ellipse(_disc(bite, 0.8 * radius), fill=0)
    else:
        pen.polygon([_turned(point, radius, angle) for point in OUTLINES[shape]], fill=255)
    return mask


def _disc(centre: Point, radius: float) -> tuple[float, float, float, float]:
    x, y = centre[0] + TILE / 2, centre[1] + TILE / 2
    return x - radius, y - radius, x + radius, y + radius


def _turned(point: Point, radius: float, angle: float) -> Point:
    x, y = point
    sine, cosine = math.sin(angle), math.cos(angle)
    return TILE / 2 + radius * (x * cosine - y * sine), TILE / 2 + radius * (x * sine + y * cosine)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _regular(corners: int, *, inner: float = 1.0) -> list[Point]:
    """Corners of a regular polygon that points up; with `inner`, every second corner lies at that radius: a star."""
    radii = [inner if index % 2 else 1.0 for index in range(corners)]
    turns = [2 * math.pi * index / corners for index in range(corners)]
    return [(radius * math.sin(turn), -radius * math.cos(turn)) for radius, turn in zip(radii, turns, strict=True)]


def _heart() -> list[Point]:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, brought to radius 1."""
    turns = [2 * math.pi * index / 48 for index in range(48)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(math.sin(t) ** 3, -height / 16) for t, height in zip(turns, heights, strict=True)]


OUTLINES: dict[str, list[Point]] = {
    "circle": _regular(48),
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": _regular(3),
    "star": _regular(10, inner=0.45),
    "heart": _heart(),
}
"""Corners at radius about 1, y downwards. The moon is drawn as a disc less a disc."""
