"""Figures of score panels: scores by an axis, several sizes in one figure, score by size, the overview."""

import textwrap
from collections.abc import Sequence

from sweep.results.figures.panels import FigurePanel, build_panel_legend, draw_panel, list_series_values
from sweep.results.figures.style import LINE_HEIGHT, DrawnFigure, OmittedFigure, choose_columns, start_figure
from sweep.results.figures.words import (
    AXIS_WORDS,
    format_held_axes,
    format_spread_note,
    join_sentences,
    list_varied_axes,
)
from sweep.results.slices import (
    BITS_PER_BYTE,
    HELD_OUT,
    MEASURES,
    TEXT,
    VISION,
    FigureView,
    Measure,
    Row,
    build_view_slice,
    is_axis_varied,
)

ONE_VALUE = "a single value in this sweep"
TOO_FEW = "scores for fewer than two values so far"


def draw_scores_by_axis(rows: Sequence[Row], view: FigureView) -> DrawnFigure | OmittedFigure:
    """One model's scores against one axis."""
    name = f"score_by_{view.x}"
    panels = build_view_panels(rows, view)
    if not panels:
        return OmittedFigure(name, TOO_FEW if is_axis_varied(rows, view.x) else ONE_VALUE)
    return draw_panels(name, f"Scores against {AXIS_WORDS[view.x]}", panels, rows)


def build_view_panels(
    rows: Sequence[Row], view: FigureView, measures: Sequence[Measure] = MEASURES
) -> list[FigurePanel]:
    """A panel for each score with points at two or more values of the x axis."""
    panels = [FigurePanel(measure, view, build_view_slice(rows, measure, view)) for measure in measures]
    return [panel for panel in panels if len(panel.content.x_values) > 1]


SUBTITLE_CHARACTERS = 46
"""Of small text, as fit above a panel that is half a page wide."""


def draw_panels(
    name: str, title: str, panels: Sequence[FigurePanel], rows: Sequence[Row], *, panel_height: float = 1.75
) -> DrawnFigure:
    """A figure of panels with the same series. The heading says what is held, or each panel where they differ in it.

    More than four panels stand in rows of three.
    """
    varied = list_varied_axes(rows)
    held = [format_held_axes(panel.content.held, varied) for panel in panels]
    spread = format_spread_note([point for panel in panels for point in panel.points])
    same = len(set(held)) == 1
    each = [f"{panel.describe()}: {words}" for panel, words in zip(panels, held, strict=True) if words]
    values = list_series_values(panels, rows)
    subtitles = [[] if same else textwrap.wrap(words, SUBTITLE_CHARACTERS, break_on_hyphens=False) for words in held]
    height = max(map(len, subtitles))
    columns = min(len(panels), 2) if any(subtitles) else choose_columns(len(panels))
    figure, places = start_figure(
        len(panels),
        heading=join_sentences(held[0] if same else "", spread),
        legend=build_panel_legend(panels, values),
        panel_height=panel_height + LINE_HEIGHT * height,
        columns=columns,
    )
    for axes, panel, lines in zip(places, panels, subtitles, strict=True):
        subtitle = [*lines, *[""] * (height - len(lines))]
        draw_panel(axes, panel, values, panel_width=figure.get_figwidth() / columns, subtitle=subtitle)
    return DrawnFigure(name, title, join_sentences(held[0] if same else "; ".join(each), spread), figure)


# The overview: what a reader of a README wants first.

OVERVIEW_SCORES = ((HELD_OUT, VISION), (TEXT, BITS_PER_BYTE))
"""Of each pair the first that has points: held-out questions are the stricter test."""
OVERVIEW_VIEWS = (FigureView("branch", "image_share"), FigureView("epochs", "image_share"))
OTHER_OVERVIEW_VIEWS = (FigureView("image_share", "branch"), FigureView("amount", "branch"))
"""For sweeps without several branch points or epochs."""


def draw_overview(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Up to four panels: vision above, text below, against branch point and epochs."""
    panels = build_overview_panels(rows)
    if not panels:
        return OmittedFigure("overview", "no score at two values of branch, epochs, image share or amount")
    if panels == build_view_panels(rows, panels[0].view):  # a sweep of one axis: its figure would stand there twice
        return OmittedFigure("overview", f"the same as score_by_{panels[0].view.x}")
    return draw_panels("overview", "Overview", panels, rows)


def build_overview_panels(rows: Sequence[Row]) -> list[FigurePanel]:
    """The panels, row by row."""
    for views in (OVERVIEW_VIEWS, OTHER_OVERVIEW_VIEWS):
        panels = []
        for measures in OVERVIEW_SCORES:
            for view in views:
                panels += build_view_panels(rows, view, measures)[:1]
        if panels:
            return panels
    return []


# Several sizes.

SIZE_VIEWS = (FigureView("branch", "model"), FigureView("image_share", "model"))
BY_SIZE = (FigureView("parameters", "branch"), FigureView("parameters", "image_share"))


def draw_sizes(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """All models in one figure: vision and text against branch point and image share, a line for each model."""
    if len({row["model"] for row in rows}) < 2:
        return OmittedFigure("sizes", "a single model")
    rows = release_text_budget(rows)
    panels = []
    for measures in ((VISION, HELD_OUT), (TEXT, BITS_PER_BYTE)):
        for view in SIZE_VIEWS:
            panels += [panel for panel in build_view_panels(rows, view, measures) if len(panel.content.lines) > 1][:1]
    if not panels:
        return OmittedFigure("sizes", "no axis with scores of two models at equal settings")
    return draw_panels("sizes", "Several model sizes", panels, rows)


def draw_scores_by_size(rows: Sequence[Row]) -> DrawnFigure | OmittedFigure:
    """Scores against the parameters of the language model, a line for each branch point, else image share."""
    name = "score_by_size"
    if not is_axis_varied(rows, "parameters"):
        return OmittedFigure(name, "a single size")
    view = next((view for view in BY_SIZE if is_axis_varied(rows, view.series)), BY_SIZE[0])
    panels = build_view_panels(release_text_budget(rows), view)
    if not panels:
        return OmittedFigure(name, TOO_FEW)
    return draw_panels(name, "Scores against model size", panels, rows)


def release_text_budget(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without their text budget where it follows from the model: it would hold the figure at one model."""
    budgets: dict[str, set[float | None]] = {}
    for row in rows:
        budgets.setdefault(row["model"], set()).add(row["text_multiplier"])
    if any(len(each) > 1 for each in budgets.values()):
        return rows
    return [{**row, "text_multiplier": None} for row in rows]
