"""Which panels figures of scores have."""

from sweep.results.figures.panels import compute_x_positions
from sweep.results.figures.scores import (
    build_overview_panels,
    build_view_panels,
    draw_overview,
    draw_scores_by_axis,
    draw_scores_by_size,
    draw_sizes,
    release_text_budget,
)
from sweep.results.figures.style import DrawnFigure, OmittedFigure
from sweep.results.slices import TEXT, VISION, FigureView
from tests.sweep.results.score_rows import row


def test_a_figure_needs_two_places_on_its_axis() -> None:
    view = FigureView("branch", "image_share")
    assert build_view_panels([row()], view) == []
    assert [panel.measure for panel in build_view_panels([row(), row(branch=50)], view)] == [VISION]


def test_what_is_left_out_is_told_with_its_reason() -> None:
    rows = [row(), row(branch=50, vision_stable_score=None), row(epochs=2)]
    single = draw_scores_by_axis(rows, FigureView("encoder", "image_share"))
    waiting = draw_scores_by_axis(rows, FigureView("branch", "image_share"))
    assert single == OmittedFigure("score_by_encoder", "a single value in this sweep")
    assert waiting == OmittedFigure("score_by_branch", "scores for fewer than two values so far")


def test_the_overview_has_vision_above_text_and_one_series() -> None:
    rows = [
        row(branch=branch, image_share=share, epochs=epochs, text_stable_score=0.1)
        for branch in (0, 50)
        for share in (0.1, 0.5)
        for epochs in (1, 2)
    ]
    shown = [(panel.measure, panel.view.x, panel.view.series) for panel in build_overview_panels(rows)]
    assert shown == [
        *((VISION, "branch", "image_share"), (VISION, "epochs", "image_share")),
        *((TEXT, "branch", "image_share"), (TEXT, "epochs", "image_share")),
    ]


def test_an_overview_without_branch_points_shows_image_shares() -> None:
    panels = build_overview_panels([row(image_share=share) for share in (0.1, 0.5)])
    assert [(panel.measure, panel.view.x) for panel in panels] == [(VISION, "image_share")]


def test_an_overview_that_would_be_the_figure_of_a_single_axis_is_left_out() -> None:
    one_axis = [row(image_share=share, text_stable_score=0.1) for share in (0.1, 0.5)]
    assert draw_overview(one_axis) == OmittedFigure("overview", "the same as score_by_image_share")
    two_axes = [row(image_share=share, branch=branch) for share in (0.1, 0.5) for branch in (0, 50) for _ in (1, 2)]
    two_axes += [row(epochs=2, image_share=share) for share in (0.1, 0.5)]
    assert isinstance(draw_overview(two_axes), DrawnFigure)


def test_an_axis_that_varies_beside_the_grid_is_shown_where_it_varies() -> None:
    """Two captions at 100 % alone, while most models, and the best, are at 0 %."""
    rows = [row(branch=0.0, image_share=share, vision_stable_score=0.9) for share in (0.1, 0.2, 0.5)]
    rows += [row(branch=100.0, captions=captions) for captions in ("dense", "raw")]
    (panel,) = build_view_panels(rows, FigureView("captions", "image_share"))
    assert panel.content.held["branch"] == 100.0
    assert panel.content.x_values == ["dense", "raw"]


def test_sizes_need_two_models() -> None:
    assert draw_sizes([row(), row(branch=50)]) == OmittedFigure("sizes", "a single model")
    rows = [row(parameters=10), row(branch=50, parameters=10)]
    assert draw_scores_by_size(rows) == OmittedFigure("score_by_size", "a single size")


def test_a_text_budget_that_follows_from_the_model_is_no_axis() -> None:
    small, large = row(model="79m", text_multiplier=150.0), row(model="7b", text_multiplier=1.0)
    assert [each["text_multiplier"] for each in release_text_budget([small, large])] == [None, None]
    other = row(model="7b", text_multiplier=2.0)
    assert release_text_budget([small, large, other]) == [small, large, other]


def test_crowded_places_are_spread_evenly() -> None:
    assert compute_x_positions("branch", [0, 50, 100]) == {0: 0.0, 50: 50.0, 100: 100.0}
    assert compute_x_positions("image_share", [0.0, 0.01, 0.05, 0.1, 1.0]) == {0.0: 0, 0.01: 1, 0.05: 2, 0.1: 3, 1.0: 4}
    assert compute_x_positions("captions", ["dense", "short"]) == {"dense": 0, "short": 1}
    assert compute_x_positions("parameters", [10, 1000]) == {10: 1, 1000: 3}
