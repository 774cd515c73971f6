"""What the report says about each axis."""

from dataclasses import replace
from typing import Any

from sweep.results.comparisons import LEGEND, SHORT_LEGEND, compute_differences, format_effects, format_effects_table
from sweep.results.contrasts import AVERAGE, Comparison, Contrast


def row(branch: float, share: float, score: float | None, **changes: Any) -> dict[str, Any]:
    base = {"model": "m", "branch": branch, "image_share": share, "seed": 0, "epochs": 1, "captions": "dense"}
    return {**base, "overrides": [], "vision_stable_score": score, "bits_per_byte": 2.0 - branch / 100, **changes}


def test_an_effect_is_the_mean_over_pairs_that_differ_in_one_axis() -> None:
    rows = [row(0, 0.0, 0.1), row(0, 0.5, 0.3), row(100, 0.0, 0.2), row(100, 0.5, 0.8)]
    assert format_effects(compute_differences(rows)) == [
        "branch 0 % -> 100 %: vision +0.300 ±0.200 (2 pairs), bits/byte -1.000 ±0.000 (2 pairs)",
        "image share 0 % -> 50 %: vision +0.400 ±0.200 (2 pairs), bits/byte +0.000 ±0.000 (2 pairs)",
    ]


def test_an_interval_is_printed_with_what_its_marks_mean() -> None:
    (found,) = compute_differences([row(0, 0.5, 0.1, bits_per_byte=None), row(100, 0.5, 0.2, bits_per_byte=None)])
    contrast = Contrast(
        comparison=Comparison("m", "branch", 0, 100, AVERAGE), score="vision", is_task=False, pairs=1, models=1,
        seeds=1, difference=0.1, tasks=(), low=0.05, high=0.15, p_value=0.01, p_holm=0.01,
    )  # fmt: skip
    assert format_effects([replace(found, contrast=contrast)]) == [
        "branch 0 % -> 100 %: vision +0.100 [+0.050, +0.150]* (1 pair)",
        SHORT_LEGEND,
    ]


def test_models_without_a_partner_or_a_score_are_left_out() -> None:
    rows = [row(0, 0.0, 0.1), row(0, 0.5, None), row(100, 0.0, 0.2), row(50, 0.5, 0.9)]
    found = format_effects(compute_differences(rows))
    assert found[0].startswith("branch 0 % -> 100 %: vision +0.100 (1 pair)")
    assert not any("vision" in line for line in found if line.startswith("image share"))


def test_an_axis_with_one_value_says_nothing() -> None:
    assert format_effects(compute_differences([row(0, 0.5, 0.1, epochs=1), row(0, 0.5, 0.2, epochs=4)])) == [
        "epochs 1 -> 4: vision +0.100 (1 pair), bits/byte +0.000 (1 pair)"
    ]


def test_a_single_pair_has_the_error_of_its_test_sets() -> None:
    rows = [row(0, 0.5, 0.1, vision_stable_stderr=0.03), row(100, 0.5, 0.4, vision_stable_stderr=0.04)]
    assert format_effects(compute_differences(rows)) == [
        "branch 0 % -> 100 %: vision +0.300 ±0.050 (1 pair), bits/byte -1.000 (1 pair)"
    ]


def test_several_models_have_lines_of_their_own() -> None:
    rows = [row(branch, 0.5, branch / 100, model=model) for model in ("2m", "9m") for branch in (0, 100)]
    assert [line.split(":")[0] for line in format_effects(compute_differences(rows))] == ["2m", "9m"]
    assert format_effects_table(compute_differences(rows)).count(" by branch, against 100 %") == 2


def test_the_table_holds_every_branch_against_the_last_and_other_axes_against_the_first() -> None:
    rows = [row(branch, share, branch / 1000 + share) for branch in (0, 80, 100) for share in (0.1, 0.5)]
    assert format_effects_table(compute_differences(rows)).splitlines() == [
        "branch, against 100 %  pairs         vision      bits/byte",
        "0 %                        2  -0.100 ±0.000  +1.000 ±0.000",
        "80 %                       2  -0.020 ±0.000  +0.200 ±0.000",
        "",
        "image share, against 10 %  pairs         vision      bits/byte",
        "50 %                           3  +0.400 ±0.000  +0.000 ±0.000",
        "",
        *LEGEND.splitlines(),
    ]
    assert format_effects_table([]) == ""
