"""The look of every figure: sizes, fonts, colours that read in grey, layout, file formats."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context, rcdefaults, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from jobs.store.paths import open_replacement

# A figure, or why there is none.


@dataclass(frozen=True, slots=True)
class DrawnFigure:
    """A figure that is ready to be saved."""

    name: str
    """File name without model and format."""
    title: str
    caption: str
    """What it shows, what is held or averaged, what its bars mean."""
    figure: Figure


@dataclass(frozen=True, slots=True)
class OmittedFigure:
    """A figure for which the sweep has not the data."""

    name: str
    reason: str


# Sizes and fonts, for a page of two columns.

SINGLE_COLUMN = 3.3
"""Width in inches."""
DOUBLE_COLUMN = 6.9
DPI = 300
SMALL = 7.0
"""Points; nothing is smaller."""
GREY = "#404040"
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "legend.borderpad": 0.1,
    "legend.labelspacing": 0.25,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sweep",  # else element ids differ at every call
}
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
"""By format. Without dates, so that the same results give the same bytes."""


@contextmanager
def apply_style() -> Iterator[None]:
    """This page's settings, whatever the user's matplotlibrc says."""
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        yield


# Colours, markers, lines and hatches: each alone tells the series apart.

ORDERED_COLOURS = "viridis"
"""Its lightness rises evenly, so it reads in grey; safe for colour-blind readers. Its pale end is not used."""
MARKERS = "osD^v<>hpP*"
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (3, 1.2, 1, 1.2)),
    (0, (1, 1)),
    (0, (7, 1.2, 1, 1.2, 1, 1.2)),
    (0, (2, 2)),
)
HATCHES = ("", "////", "....", "xxxx", "----", "\\\\\\\\", "oo", "++")


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one of several series looks."""

    colour: Any
    marker: str
    line: Any
    hatch: str


def select_style(index: int, count: int) -> SeriesStyle:
    """The look of series `index` of `count`."""
    return SeriesStyle(
        colour=colormaps[ORDERED_COLOURS](0.84 * index / max(count - 1, 1)),
        marker=MARKERS[index % len(MARKERS)],
        line=LINES[index % len(LINES)],
        hatch=HATCHES[index % len(HATCHES)],
    )


def build_handle(label: str, look: SeriesStyle, *, line: bool = True, hollow: bool = False) -> Line2D:
    """A legend entry of a series."""
    return Line2D(
        [],
        [],
        label=label,
        color=look.colour,
        marker=look.marker,
        linestyle=look.line if line else "none",
        markerfacecolor="white" if hollow else look.colour,
    )


def build_hollow_handle() -> Line2D:
    """The legend entry that explains hollow points."""
    label = "hollow: images after all text"
    return Line2D([], [], label=label, color=GREY, marker="o", linestyle="none", markerfacecolor="white")


# Layout: a heading, panels in rows, one legend below them. Labels stand in the margins, never over points.

LINE_HEIGHT = 0.132
"""Inches of a line of small text."""
CHARACTER = 0.056
"""Inches of a character of small text, rather too wide."""


@dataclass(frozen=True, slots=True)
class FigureLegend:
    """Entries of the legend below the panels."""

    title: str
    handles: Sequence[Artist]

    def count_columns(self, width: float) -> int:
        """How many entries fit side by side, in inches. Entries fill the columns one after the other."""
        sizes = [CHARACTER * len(str(handle.get_label())) + 0.52 for handle in self.handles]
        for columns in range(len(sizes), 1, -1):
            height, longer = divmod(len(sizes), columns)
            starts = [index * height + min(index, longer) for index in range(columns + 1)]
            if sum(max(sizes[start:end]) for start, end in pairwise(starts)) <= width - 0.1:
                return columns
        return 1

    def count_lines(self, width: float) -> int:
        """Lines of text, the title's included."""
        columns = self.count_columns(width)
        return -(-len(self.handles) // columns) + bool(self.title)


def choose_columns(panels: int) -> int:
    """Panels in a row: up to three, but two rows of two for four."""
    return 2 if panels == 4 else min(panels, 3)


# Why: docs/decisions.md, D98
def start_figure(
    panels: int,
    *,
    heading: str,
    legend: FigureLegend | None = None,
    panel_height: float = 1.75,
    columns: int | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure of single-column width for one panel, else of double-column width; its heading, legend and axes.

    `columns`: panels in a row, by default `choose_columns`.
    """
    width = DOUBLE_COLUMN if panels > 1 else SINGLE_COLUMN
    columns = columns or choose_columns(panels)
    rows = -(-panels // columns)
    lines = textwrap.wrap(heading, int((width - 0.1) / CHARACTER), break_on_hyphens=False)
    below = legend.count_lines(width) if legend else 0
    height = rows * (panel_height + 0.6) + LINE_HEIGHT * (len(lines) + below) + 0.1
    figure = Figure(figsize=(width, height), dpi=DPI)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=SMALL, color=GREY)
    if legend:
        figure.legend(
            handles=legend.handles,
            title=legend.title or None,
            ncols=legend.count_columns(width),
            loc="outside lower left",
            alignment="left",
            columnspacing=1.2,
        )
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(panels)]


def add_margin_label(axes: Axes, text: str, y: float, *, data: bool = True) -> None:
    """Small text right of the axes at height `y`: in data units, or as a fraction of the axes."""
    axes.annotate(
        text,
        (1.0, y),
        xycoords=axes.get_yaxis_transform() if data else "axes fraction",
        xytext=(3, 0),
        textcoords="offset points",
        va="center" if data else "bottom",
        ha="left",
        color=GREY,
        fontsize=SMALL,
        annotation_clip=False,
    )


# Files.


def save_figure(figure: Figure, folder: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Writes the figure whole in each format and returns the paths."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # placed once, for all formats
    paths = []
    for kind in formats:
        path = folder / f"{name}.{kind}"
        with open_replacement(path) as unfinished:
            figure.savefig(unfinished, format=kind, dpi=DPI, metadata=METADATA[kind])
        paths.append(path)
    return paths
