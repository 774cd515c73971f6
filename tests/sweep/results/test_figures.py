from sweep.results.figures import (
    FigureView,
    build_figure_panels,
    build_model_figures,
    compute_x_positions,
    format_axis_label,
    format_held_axes,
    list_omitted_figures,
)
from sweep.results.slices import TEXT, VISION
from tests.sweep.results.score_rows import row


def test_a_figure_needs_two_places_on_its_axis() -> None:
    view = FigureView("branch", "image_share")
    assert build_figure_panels([row()], view) == []
    assert [panel.measure for panel in build_figure_panels([row(), row(branch=50)], view)] == [VISION]


def test_what_is_left_out_is_told_with_its_reason() -> None:
    rows = [row(), row(branch=50, vision_stable_score=None), row(epochs=2)]
    single, waiting = list_omitted_figures(rows, "2m")
    assert single == (
        "2m: no figure by image_share, instruction_share, captions, encoder, freeze_encoder, amount: a single "
        "value in this sweep"
    )
    assert waiting == "2m: no figure by branch: scores for fewer than two values so far"


def test_the_overview_shows_each_panel_once() -> None:
    rows = [
        row(branch=branch, image_share=share, epochs=epochs, text_stable_score=0.1)
        for branch in (0, 50)
        for share in (0.1, 0.5)
        for epochs in (1, 2)
    ]
    panels = build_model_figures(rows)["overview"]
    shown = [(panel.measure, panel.view.x) for panel in panels]
    assert shown == [(VISION, "image_share"), (VISION, "branch"), (TEXT, "branch"), (VISION, "epochs")]


def test_values_read_as_a_person_writes_them() -> None:
    assert format_axis_label("image_share", 0.25) == "25 %"
    assert format_axis_label("branch", 80.0) == "80 %"
    assert format_axis_label("branch", 100 * 813_264 / 4_119_287) == "19.74 %"
    assert format_axis_label("epochs", 1) == "1 epoch"
    assert format_axis_label("amount", 2.0) == "2"
    assert format_axis_label("captions", "dense") == "dense"
    assert format_axis_label("freeze_encoder", False) == "trained"
    held = {"branch": 80.0, "captions": "dense", "epochs": 2, "amount": 1.0}
    assert format_held_axes({"overrides": (("finetune.peak_lr", "0.1"),)}, {"overrides"}) == "finetune.peak_lr 0.1"
    assert format_held_axes({"overrides": ()}, {"overrides"}) == ""
    assert format_held_axes(held, {"branch", "captions", "epochs"}) == (
        "images from 80 % of the text, dense captions, fine-tuned for 2 epochs"
    )


def test_crowded_places_are_spread_evenly() -> None:
    assert compute_x_positions("branch", [0, 50, 100]) == {0: 0.0, 50: 50.0, 100: 100.0}
    assert compute_x_positions("image_share", [0.0, 0.01, 0.05, 0.1, 1.0]) == {0.0: 0, 0.01: 1, 0.05: 2, 0.1: 3, 1.0: 4}
    assert compute_x_positions("captions", ["dense", "short"]) == {"dense": 0, "short": 1}
