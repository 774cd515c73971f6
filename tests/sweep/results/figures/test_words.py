"""How values of axes are written."""

from typing import Any

from sweep.results.figures.planes import describe_cost_sources
from sweep.results.figures.words import (
    format_axis_label,
    format_held_axes,
    format_spread_note,
    join_sentences,
    wrap_name,
)
from sweep.results.slices import PlotPoint


def test_values_read_as_a_person_writes_them() -> None:
    assert format_axis_label("image_share", 0.25) == "25 %"
    assert format_axis_label("branch", 80.0) == "80 %"
    assert format_axis_label("branch", 100 * 813_264 / 4_119_287) == "19.74 %"
    assert format_axis_label("epochs", 1) == "1 epoch"
    assert format_axis_label("amount", 2.0) == "2"
    assert format_axis_label("captions", "dense") == "dense"
    assert format_axis_label("freeze_encoder", False) == "trained"
    assert format_axis_label("parameters", 78_914_048) == "79M"
    assert format_axis_label("parameters", 1_439_795_200) == "1.4B"
    assert format_axis_label("parameters", 411_616_256) == "412M"


def test_a_slice_says_what_it_holds_of_what_the_sweep_varies() -> None:
    held = {"branch": 80.0, "captions": "dense", "epochs": 2, "amount": 1.0}
    assert format_held_axes({"overrides": (("finetune.peak_lr", "0.1"),)}, {"overrides"}) == "finetune.peak_lr 0.1"
    assert format_held_axes({"overrides": ()}, {"overrides"}) == ""
    assert format_held_axes(held, {"branch", "captions", "epochs"}) == (
        "images from 80 % of the text, dense captions, fine-tuned for 2 epochs"
    )


def test_bars_say_what_noise_they_hold() -> None:
    one, other = PlotPoint(0, 0.5, 0.01, 1), PlotPoint(0, 0.5, 0.02, 3)
    assert format_spread_note([one]) == "one seed; bars: standard error of the test set, without training noise"
    assert format_spread_note([PlotPoint(0, 2.5, None, 1)]) == "one seed, no bars"
    assert format_spread_note([other]) == "mean over 3 seeds; bars: standard deviation over the seeds"
    assert format_spread_note([one, other]) == (
        "mean over 1 to 3 seeds; bars: standard deviation over the seeds (of the test set where there is one seed)"
    )


def test_long_names_break_behind_their_own_separators() -> None:
    assert wrap_name("siglip-so400m-14-384", 13) == "siglip-\nso400m-14-384"
    assert wrap_name("bigbench_conceptual_combinations_multiple_choice") == "bigbench\nconceptual"
    assert wrap_name("gqa") == "gqa"
    assert wrap_name("unbreakablyLongName", 5) == "unbreakablyLongName"


def test_parts_become_sentences() -> None:
    assert join_sentences("dense captions", "", "one seed") == "Dense captions. One seed."


def test_a_caption_says_which_costs_are_not_slurms() -> None:
    rows: list[dict[str, Any]] = [{"hours_remark": None}, {"hours_remark": "there is no accounting on this cluster"}]
    assert describe_cost_sources(rows) == [
        "the cost of 1 of 2 models is not Slurm's, but what their attempts recorded "
        "(there is no accounting on this cluster)"
    ]
    assert describe_cost_sources(rows[:1]) == []
