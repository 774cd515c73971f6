"""What a figure looks like once it is placed: boxes of its texts and markers in pixels, and its greys."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

TOUCH = 1.0
"""Pixels of 300 an inch by which two boxes may overlap: rounding."""


def list_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box. Tick labels beyond the axis are not drawn."""
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    labels = {label for tick in ticks for label in (tick.label1, tick.label2)}
    minor = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_minor_ticks()
        for label in (tick.label1, tick.label2)
    }
    shown = [each for each in figure.findobj(Text) if each not in labels | minor and each.get_visible()]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = 1e-9 * (high - low)
            shown += [
                label
                for tick in axis.get_major_ticks()
                if low - slack <= tick.get_loc() <= high + slack
                for label in (tick.label1, tick.label2)
                if label.get_visible()
            ]
    return [(each.get_text(), each.get_window_extent()) for each in shown if each.get_text().strip()]


def list_points(line: Line2D) -> list[tuple[float, float]]:
    across, up = np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)
    return list(zip(across.tolist(), up.tolist(), strict=True))


def is_marked(line: Line2D) -> bool:
    return line.get_marker() not in {None, "", " ", "None", "none"}


def iter_marker_boxes(axes: Axes) -> Iterator[Bbox]:
    """The box of each marker of the axes."""
    for line in axes.lines:
        if not is_marked(line):
            continue
        points = line.get_transform().transform(np.asarray(list_points(line)))
        every = line.get_markevery()
        if isinstance(every, tuple):
            points = points[every[0] :: every[1]]
        radius = line.get_markersize() / 2 * axes.figure.dpi / 72
        for across, up in points:
            yield Bbox([[across - radius, up - radius], [across + radius, up + radius]])


def overlap(one: Bbox, other: Bbox) -> bool:
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    up = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(across > TOUCH and up > TOUCH)


def find_faults(figure: Figure) -> list[str]:
    """Texts over markers, over each other, or beyond the page; markers beyond their axes. The figure must be placed."""
    texts = list_texts(figure)
    markers = [box for axes in figure.axes for box in iter_marker_boxes(axes)]
    page = figure.bbox
    faults = [f"{text!r} over a marker" for text, box in texts if any(overlap(box, each) for each in markers)]
    faults += [f"{one[0]!r} over {other[0]!r}" for one, other in combinations(texts, 2) if overlap(one[1], other[1])]
    faults += [
        f"{text!r} beyond the page"
        for text, box in texts
        if box.x0 < -TOUCH or box.y0 < -TOUCH or box.x1 > page.x1 + TOUCH or box.y1 > page.y1 + TOUCH
    ]
    return faults


def compute_grey(colour: object) -> float:
    """Luminance from 0 to 1, as a grey printer gives it."""
    red, green, blue = to_rgb(colour)  # type: ignore[arg-type]
    return float(0.299 * red + 0.587 * green + 0.114 * blue)
