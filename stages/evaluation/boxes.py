"""Boxes as text: [x0, y0, x1, y1] as fractions of the image's width and height, as vlm-evaluation asks for them."""

import ast
import json
import warnings
from collections.abc import Sequence

Box = Sequence[float]
"""x0, y0, x1, y1 with x0 < x1 and y0 < y1."""


def parsed_box(answer: str) -> list[float] | None:
    """The box that an answer gives; None for anything but a list of four numbers in 0..1 with the corners in order.

    vlm-evaluation's rule: the whole answer is one Python literal, so `[0.1, 0.2, 0.3, 0.4]` with any spacing, but no
    tuple, no words around it, no percentages and no pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on answers such as '\d', which Python's parser warns about
            value = ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(part, int | float) for part in value):
        return None
    ordered = value[0] < value[2] and value[1] < value[3]
    return value if ordered and all(0 <= part <= 1 for part in value) else None


def intersection_over_union(one: Box, other: Box) -> float:
    """0 to 1, for boxes of which at least one has an area."""
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    return shared / (area(one) + area(other) - shared)


def area(box: Box) -> float:
    """In the square of the coordinates' unit."""
    return (box[2] - box[0]) * (box[3] - box[1])


def box_text(box_pixels: Box, width: float, height: float) -> str:
    """A box x0, y0, x1, y1 in pixels as a reference: fractions of the image, rounded to two places as vlm-evaluation
    does it. ValueError for a box that has no area or leaves the image."""
    x0, y0, x1, y1 = box_pixels
    if not (x0 < x1 <= width and y0 < y1 <= height):
        raise ValueError(f"box {list(box_pixels)} has no area or leaves the image of {width} x {height} pixels")
    return json.dumps([round(part, 2) for part in (x0 / width, y0 / height, x1 / width, y1 / height)])


def box_accuracy(answer: str, references: Sequence[str], least: float) -> float:
    """1 if the answer is a box that overlaps the first reference by `least` (intersection over union) or more."""
    box = parsed_box(answer)
    if box is None:
        return 0.0
    return float(intersection_over_union(box, json.loads(references[0])) >= least)


def box_accuracy_50(answer: str, references: Sequence[str]) -> float:
    """RefCOCO's rule: an overlap of at least 0.5."""
    return box_accuracy(answer, references, 0.5)


def box_accuracy_25(answer: str, references: Sequence[str]) -> float:
    """OCID-Ref's rule: an overlap of at least 0.25."""
    return box_accuracy(answer, references, 0.25)
