"""Charts as SVG, without styles of their own: classes of the page's style sheet colour them, light and dark.

Names that come from outside go through `markupsafe`, as in the template.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 340.0, 232.0
"""Of a chart: it fits a narrow telephone without shrinking, so its text stays readable."""
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 26.0, 40.0
SERIES = 8
"""Colours, marks and dashes of lines; then they come again, with the next dash."""
DASHES = 4
TEXT_WIDTH = 6.2
"""Of a letter of an axis, at most."""


@dataclass(frozen=True, slots=True)
class ChartPoint:
    """A point; `error` is half the length of its bar."""

    x: float
    y: float
    error: float | None = None
    note: str = ""
    """Shown where the pointer rests."""
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class ChartLine:
    """Points in order; `style` chooses colour, mark and dash."""

    label: str
    style: int
    points: Sequence[ChartPoint]
    marks: bool = True


@dataclass(frozen=True, slots=True)
class ChartAxis:
    """One direction of a chart. With `categories` a place is the number of its category."""

    label: str
    categories: Sequence[str] = ()
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[tuple[float, str]] = field(default_factory=tuple)


def choose_axis(label: str, values: Iterable[float], *, includes: Iterable[float] = ()) -> ChartAxis:
    """An axis with some round ticks over the finite values, and over `includes`."""
    kept = [value for value in (*values, *includes) if math.isfinite(value)]
    low, high = min(kept, default=0.0), max(kept, default=1.0)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = choose_tick_step((high - low) / 4)
    if kept and all(value.is_integer() for value in map(float, kept)):
        step = max(1.0, step)  # nothing is at an epoch and a half
    pad = 0.04 * (high - low)
    first = math.ceil((low - pad) / step)
    ticks = [
        (place * step, format_tick(place * step, step)) for place in range(first, math.floor((high + pad) / step) + 1)
    ]
    return ChartAxis(label, (), low - pad, high + pad, ticks)


def choose_category_axis(label: str, names: Sequence[str]) -> ChartAxis:
    """An axis with a place for each name."""
    return ChartAxis(label, names, -0.4, len(names) - 0.6, [(float(place), name) for place, name in enumerate(names)])


def choose_tick_step(least: float) -> float:
    """The next of 1, 2, 5, 10..."""
    if not least > 0 or not math.isfinite(least):
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def format_tick(value: float, step: float) -> str:
    """A number with as many decimals as the step needs."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if step >= size / 10 and abs(value) >= size:
            return format_minus(f"{value / size:g}{sign}")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return format_minus(f"{value + 0.0:.{decimals}f}")


def format_minus(text: str) -> str:
    """A number with a minus sign that is as wide as a plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def place_on(axis: ChartAxis, value: float, start: float, end: float) -> float:
    """Where a value lies between two ends."""
    return start + (value - axis.low) / ((axis.high - axis.low) or 1) * (end - start)


def join_markup(parts: Iterable[Markup]) -> Markup:
    """Parts of a drawing."""
    return Markup("").join(parts)


MARKS = (
    "M-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z",
    "M-2.7,-2.7h5.4v5.4h-5.4z",
    "M0,-3.6L3.4,2.6H-3.4z",
    "M0,-3.8L3.6,0L0,3.8L-3.6,0z",
    "M0,3.6L3.4,-2.6H-3.4z",
    "M-3.4,-1.2h2.2v-2.2h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2z",
    "M-3.6,0L2.6,-3.4V3.4z",
    "M3.6,0L-2.6,-3.4V3.4z",
)
"""One for each of the series: they tell lines apart without colour."""


def draw_mark(style: int, x: float, y: float, *, hollow: bool = False, note: str = "") -> Markup:
    """The mark of a line at a place."""
    title = Markup("<title>{}</title>").format(note) if note else Markup("")
    return Markup('<path class="m s{}{}" transform="translate({:.1f},{:.1f})" d="{}">{}</path>').format(
        style % SERIES, Markup(" hollow") if hollow else "", x, y, MARKS[style % SERIES], title
    )


# Why: docs/decisions.md, D193
def draw_line_chart(
    title: str,
    x: ChartAxis,
    y: ChartAxis,
    lines: Sequence[ChartLine],
    *,
    level: tuple[float, str] | None = None,
    description: str = "",
) -> Markup:
    """A chart of lines with error bars. `level`: a line across, such as chance, with its name."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [draw_frame(title, x, y)]
    if level is not None:
        at = place_on(y, level[0], bottom, TOP)
        # the name stands above the chart, where no point is
        parts.append(Markup('<path class="level" d="M{},{:.1f}H{}"/>').format(LEFT, at, right))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">- - {}</text>').format(right, TOP - 5, level[1])
        )
    for line in lines:
        places = [(place_on(x, each.x, LEFT, right), place_on(y, each.y, bottom, TOP)) for each in line.points]
        path = "M" + "L".join(f"{across:.1f},{down:.1f}" for across, down in places)
        kind = Markup("l s{} d{}").format(line.style % SERIES, line.style // SERIES % DASHES)
        if len(places) > 1 and not x.categories:
            parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(kind, path, line.label))
        if not line.marks:
            continue
        for point, (across, down) in zip(line.points, places, strict=True):
            if point.error:
                ends = [place_on(y, point.y + sign * point.error, bottom, TOP) for sign in (-1, 1)]
                parts.append(
                    Markup('<path class="e s{}" d="M{:.1f},{:.1f}V{:.1f}"/>').format(line.style % SERIES, across, *ends)
                )
            parts.append(draw_mark(line.style, across, down, hollow=point.hollow, note=point.note))
    return wrap_drawing(join_markup(parts), WIDTH, HEIGHT, description or title)


def draw_frame(title: str, x: ChartAxis, y: ChartAxis) -> Markup:
    """Title, axes, ticks with a light line each, and names of the axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    heading = f"{title} ({y.label})" if y.label else title
    parts = [Markup('<text class="title" x="2" y="12">{}</text>').format(heading)]
    for value, name in y.ticks:
        at = place_on(y, value, bottom, TOP)
        parts.append(Markup('<path class="grid" d="M{},{:.1f}H{}"/>').format(LEFT, at, right))
        parts.append(
            Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 5, at + 3.5, name)
        )
    room = (right - LEFT) / max(len(x.ticks), 1)
    for number, (value, name) in enumerate(x.ticks):
        at = place_on(x, value, LEFT, right)
        short = cut_label(name, int(room * (2 if x.categories else 1) / TEXT_WIDTH))
        # names that are wider than their place stand on two heights in turn
        lower = 11 if number % 2 and x.categories and any(len(each) * TEXT_WIDTH > room for _, each in x.ticks) else 0
        parts.append(Markup('<path class="axis" d="M{:.1f},{}v4"/>').format(at, bottom))
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                min(max(at, LEFT + TEXT_WIDTH * len(short) / 2 - 20), WIDTH - TEXT_WIDTH * len(short) / 2),
                bottom + 14 + lower,
                short,
            )
        )
    parts.append(Markup('<path class="axis" d="M{},{}V{}H{}"/>').format(LEFT, TOP, bottom, right))
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (LEFT + right) / 2, HEIGHT - 4, x.label
        )
    )
    return join_markup(parts)


def cut_label(text: str, most: int) -> str:
    """At most so many letters."""
    return text if len(text) <= max(most, 3) else text[: max(most, 3) - 1] + "…"


def wrap_drawing(content: Markup, width: float, height: float, description: str, kind: str = "chart") -> Markup:
    """The SVG element with the description that a screen reader says."""
    return Markup('<svg class="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, description, content
    )


def draw_legend(entries: Sequence[tuple[str, int]], *, marks: bool = True) -> Markup:
    """Lines, with or without their marks, and names, as a list; each entry is a name and a style."""
    items = [
        Markup(
            '<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true">'
            '<path class="l s{0} d{1}" d="M1,6H25"/>{2}</svg>{3}</li>'
        ).format(style % SERIES, style // SERIES % DASHES, draw_mark(style, 13, 6) if marks else "", label)
        for label, style in entries
    ]
    return Markup('<ul class="legend">{}</ul>').format(join_markup(items)) if items else Markup("")
