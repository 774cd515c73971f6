from sweep.results.figures import View, figure_panels, held_words, left_out, model_figures, value_label, x_places
from sweep.results.slices import TEXT, VISION
from tests.sweep.results.score_rows import row


def test_a_figure_needs_two_places_on_its_axis() -> None:
    view = View("branch", "image_share")
    assert figure_panels([row()], view) == []
    assert [panel.measure for panel in figure_panels([row(), row(branch=50)], view)] == [VISION]


def test_what_is_left_out_is_told_with_its_reason() -> None:
    rows = [row(), row(branch=50, vision_stable_score=None), row(epochs=2)]
    single, waiting = left_out(rows, "2m")
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
    panels = model_figures(rows)["overview"]
    shown = [(panel.measure, panel.view.x) for panel in panels]
    assert shown == [(VISION, "image_share"), (VISION, "branch"), (TEXT, "branch"), (VISION, "epochs")]


def test_values_read_as_a_person_writes_them() -> None:
    assert value_label("image_share", 0.25) == "25 %"
    assert value_label("branch", 80.0) == "80 %"
    assert value_label("epochs", 1) == "1 epoch"
    assert value_label("amount", 2.0) == "2"
    assert value_label("captions", "dense") == "dense"
    assert value_label("freeze_encoder", False) == "trained"
    held = {"branch": 80.0, "captions": "dense", "epochs": 2, "amount": 1.0}
    assert held_words({"overrides": (("finetune.peak_lr", "0.1"),)}, {"overrides"}) == "finetune.peak_lr 0.1"
    assert held_words({"overrides": ()}, {"overrides"}) == ""
    assert held_words(held, {"branch", "captions", "epochs"}) == (
        "images from 80 % of the text, dense captions, fine-tuned for 2 epochs"
    )


def test_crowded_places_are_spread_evenly() -> None:
    assert x_places("branch", [0, 50, 100]) == {0: 0.0, 50: 50.0, 100: 100.0}
    assert x_places("image_share", [0.0, 0.01, 0.05, 0.1, 1.0]) == {0.0: 0, 0.01: 1, 0.05: 2, 0.1: 3, 1.0: 4}
    assert x_places("captions", ["dense", "short"]) == {"dense": 0, "short": 1}
