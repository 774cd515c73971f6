import random

import pytest

from stages.demo.images import BACKGROUND_COLOURS, SHAPE_COLOURS, SIZE, draw_scene, encode_png
from stages.demo.scenes import SHAPES, Group, Scene


def test_the_image_shows_the_scene() -> None:
    image = draw_scene(Scene((Group("red", "square", 4),), "navy"), random.Random(0))
    pixels = [image.getpixel((x, y)) for x in range(SIZE) for y in range(SIZE)]

    def near(pixel: object, colour: tuple[int, int, int]) -> bool:
        assert isinstance(pixel, tuple)
        return all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True))

    red = sum(near(pixel, SHAPE_COLOURS["red"]) for pixel in pixels) / len(pixels)
    navy = sum(near(pixel, BACKGROUND_COLOURS["navy"]) for pixel in pixels) / len(pixels)
    assert 0.2 < red < 0.6
    assert 0.3 < navy < 0.8
    assert red + navy > 0.85


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn_and_differs_from_the_others(shape: str) -> None:
    def drawn(name: str) -> bytes:
        return encode_png(draw_scene(Scene((Group("red", name, 1),), "white"), random.Random(1)))

    assert drawn(shape) == drawn(shape)
    assert all(drawn(shape) != drawn(other) for other in SHAPES if other != shape)
