"""Differences of scores with their 95 % intervals, from contrasts.parquet: of every axis, and at each mix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sweep.phases import PHASES
from sweep.results.figures.style import (
    GREY,
    DrawnFigure,
    FigureLegend,
    OmittedFigure,
    start_figure,
)
from sweep.results.figures.words import (
    AXIS_WORDS,
    FRACTIONS,
    format_axis_label,
    join_sentences,
    parse_axis_text,
)
from sweep.results.slices import BITS_PER_BYTE, MEASURES, Measure, make_sort_key

Contrasts = Sequence[Mapping[str, Any]]
"""Rows of contrasts.parquet."""
AVERAGE, CELL = "average", "cell"
"""Levels: the mean over all pairs of cells; one pair of cells, the mean over their epochs."""
AGAINST_LAST = "branch"
"""The axis whose values are compared with the last one, images after all text; all others with the first."""
SIGNIFICANT = 0.05
MOST_LINES = 40
"""Differences of a panel: more would not be readable on one page."""


def load_contrasts(path: Path) -> list[Mapping[str, Any]]:
    """The contrasts of stable scores and losses that figures show; none where the file is not there."""
    if not path.exists():
        return []
    wanted = [("level", "in", [AVERAGE, CELL]), ("is_task", "==", False)]
    found: list[Mapping[str, Any]] = pq.read_table(path, filters=wanted).to_pylist()
    return found


@dataclass(frozen=True, slots=True)
class ShownDifference:
    """A line of a panel, in percentage points of accuracy, for a loss in bits per byte."""

    label: str
    difference: float
    low: float
    high: float
    significant: bool


def draw_differences(contrasts: Contrasts) -> DrawnFigure | OmittedFigure:
    """Every value of every axis against the axis's reference value, the mean over all pairs that differ in it alone."""
    name = "differences"
    averages = [each for each in contrasts if each["level"] == AVERAGE]
    shown = select_against_reference(averages)
    lines = {
        measure: [build_line(each, describe_comparison(each)) for each in shown if each["score"] == measure.name]
        for measure in MEASURES
    }
    if not any(lines.values()):
        return OmittedFigure(name, explain_omission(averages))
    subject = "first value minus second, mean over all pairs of models that are equal in all else"
    return draw_line_panels(name, "Differences of scores", lines, shown, subject)


def draw_differences_by_mix(contrasts: Contrasts) -> DrawnFigure | OmittedFigure:
    """The study's contrast at each mix: images before the end of the text against images after all of it.

    The last branch point but one against the last, for each image and instruction share; all other axes at the value
    that most of these pairs have.
    """
    name = "differences_by_mix"
    pairs = [each for each in contrasts if each["level"] == CELL and each["axis"] == "branch"]
    ends = sorted({float(each[side]) for each in pairs for side in ("first", "second")})[-2:]
    chosen = [
        each for each in pairs if [float(each["first"]), float(each["second"])] == ends and each["low"] is not None
    ]
    if not chosen:
        return OmittedFigure(name, explain_omission(pairs))
    chosen = keep_most_frequent(
        chosen, ("captions", "encoder", "freeze_encoder", "amount", "lr_at_branch", "overrides")
    )
    chosen.sort(key=lambda each: (each["image_share"], make_sort_key(each["instruction_share"])))
    several = len({each["instruction_share"] for each in chosen if each["image_share"]}) > 1
    lines = {
        measure: [build_line(each, describe_mix(each, several)) for each in chosen if each["score"] == measure.name]
        for measure in MEASURES
    }
    early, late = (format_axis_label("branch", end) for end in ends)
    subject = f"images from {early} minus images from {late} of the text, mean over the epochs"
    return draw_line_panels(name, "Images before the end of the text against images after it", lines, chosen, subject)


def select_against_reference(contrasts: Contrasts) -> list[Mapping[str, Any]]:
    """The contrasts with an interval of which one side is the axis's reference value, in the order of the axis."""
    found = []
    for axis in dict.fromkeys(each["axis"] for each in contrasts):
        of_axis = [each for each in contrasts if each["axis"] == axis and each["low"] is not None]
        values = sorted(
            {parse_axis_text(axis, each[side]) for each in of_axis for side in ("first", "second")}, key=make_sort_key
        )
        reference = values[-1 if axis == AGAINST_LAST else 0] if values else None
        side = "second" if axis == AGAINST_LAST else "first"
        found += [each for each in of_axis if parse_axis_text(axis, each[side]) == reference]
    return found


def keep_most_frequent(contrasts: Contrasts, axes: Sequence[str]) -> list[Mapping[str, Any]]:
    """The contrasts that have, axis by axis, the value that most of them have."""
    found = list(contrasts)
    for axis in axes:
        values = [str(each[axis]) for each in found]
        most = max(dict.fromkeys(values), key=values.count)
        # Without images there are no captions, encoder or amount of them.
        found = [each for each in found if str(each[axis]) == most or each["image_share"] == 0]
    return found


def build_line(contrast: Mapping[str, Any], label: str) -> ShownDifference:
    """The contrast as it is shown: for branch points earlier minus last, for all else value minus first."""
    scale = 1 if contrast["score"] == BITS_PER_BYTE.name else 100
    difference, low, high = (scale * contrast[name] for name in ("difference", "low", "high"))
    if contrast["axis"] == AGAINST_LAST:
        difference, low, high = -difference, -high, -low
    p_holm = contrast["p_holm"]
    return ShownDifference(label, difference, low, high, p_holm is not None and p_holm < SIGNIFICANT)


def describe_comparison(contrast: Mapping[str, Any]) -> str:
    """`branch point: 80 vs 100 %`."""
    axis = contrast["axis"]
    sides = [parse_axis_text(axis, contrast[side]) for side in ("second", "first")]
    if axis == AGAINST_LAST:
        sides.reverse()
    percent = axis == "branch" or axis in FRACTIONS
    words = [format_axis_label(axis, value, unit=False) for value in sides]
    return f"{AXIS_WORDS[axis].removeprefix('fine-tuning ')}: {words[0]} vs {words[1]}{' %' if percent else ''}"


def describe_mix(contrast: Mapping[str, Any], several: bool) -> str:
    """`10 % images`, with the share of instructions where there are several."""
    words = f"{format_axis_label('image_share', contrast['image_share'])} images"
    if several and contrast["image_share"]:
        words += f", {format_axis_label('instruction_share', contrast['instruction_share'])} instr."
    return words


def explain_omission(contrasts: Contrasts) -> str:
    """Why there is nothing to draw."""
    notes = dict.fromkeys(each["note"] for each in contrasts if each["note"])
    return (
        f"no difference has an interval ({next(iter(notes))})"
        if notes
        else "no two models that differ in one axis alone"
    )


def draw_line_panels(
    name: str,
    title: str,
    lines: Mapping[Measure, Sequence[ShownDifference]],
    contrasts: Contrasts,
    subject: str,
) -> DrawnFigure:
    """A panel for each score, with a line for each difference and its interval, and zero."""
    shown = {measure: each[:MOST_LINES] for measure, each in lines.items() if each}
    left_out = max(len(each) for each in lines.values()) - MOST_LINES
    caption = join_sentences(
        subject,
        describe_noise(contrasts),
        f"the first {MOST_LINES} differences; {left_out} more are in contrasts.parquet" if left_out > 0 else "",
    )
    most = max(len(each) for each in shown.values())
    handles = [
        Line2D([], [], color="black", marker="s", linestyle="-", label="p < 0.05, adjusted by Holm"),
        Line2D([], [], color="black", marker="s", linestyle="-", markerfacecolor="white", label="not significant"),
    ]
    figure, places = start_figure(
        len(shown),
        heading=caption,
        legend=FigureLegend("", handles),
        panel_height=0.2 + 0.145 * most,
        columns=min(len(shown), 2),
    )
    for axes, (measure, each) in zip(places, shown.items(), strict=True):
        draw_difference_lines(axes, measure, each)
    return DrawnFigure(name, title, caption, figure)


def draw_difference_lines(axes: Axes, measure: Measure, lines: Sequence[ShownDifference]) -> None:
    """The first difference on top."""
    axes.axvline(0.0, color=GREY, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1)
    for place, line in enumerate(lines):
        axes.plot([line.low, line.high], [place, place], color="black", linewidth=0.9, zorder=2)
        axes.plot(
            [line.difference],
            [place],
            color="black",
            marker="s",
            markersize=3.2,
            linestyle="none",
            markerfacecolor="black" if line.significant else "white",
            zorder=3,
        )
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_title(measure.title, loc="left")
    axes.set_xlabel(f"difference ({'bits/byte' if measure is BITS_PER_BYTE else 'percentage points'})")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def describe_noise(contrasts: Contrasts) -> str:
    """What noise the intervals hold and what they do not."""
    with_seeds = any("seeds" in (each["noise"] or "") for each in contrasts)
    phases = dict.fromkeys(phase for each in contrasts for phase in each["shared_draws"] or ())
    # a trunk is one draw, however many segments it was cut into
    shared = [PHASES[phase].job.removesuffix(" segment") for phase in phases]
    held = "the sampling of questions" + (" and the seeds' spread" if with_seeds else "")
    missing = f"; not in them: the noise of one draw of {', '.join(shared)}" if shared else ""
    return f"bars: 95 % intervals, paired by question; they hold {held}{missing}"
