"""What the report says about each axis."""

from typing import Any

from sweep.results.effects import effects


def row(branch: float, share: float, score: float | None, **changes: Any) -> dict[str, Any]:
    base = {"model": "m", "branch": branch, "image_share": share, "seed": 0, "epochs": 1, "captions": "dense"}
    return {**base, "overrides": [], "vision_stable_score": score, "bits_per_byte": 2.0 - branch / 100, **changes}


def test_an_effect_is_the_mean_over_pairs_that_differ_in_one_axis() -> None:
    rows = [row(0, 0.0, 0.1), row(0, 0.5, 0.3), row(100, 0.0, 0.2), row(100, 0.5, 0.8)]
    assert effects(rows) == [
        "branch 0 % -> 100 %: vision +0.300 (2 pairs), bits/byte -1.000 (2 pairs)",
        "image share 0 % -> 50 %: vision +0.400 (2 pairs), bits/byte +0.000 (2 pairs)",
    ]


def test_models_without_a_partner_or_a_score_are_left_out() -> None:
    rows = [row(0, 0.0, 0.1), row(0, 0.5, None), row(100, 0.0, 0.2), row(50, 0.5, 0.9)]
    assert effects(rows)[0].startswith("branch 0 % -> 100 %: vision +0.100 (1 pair)")
    assert not any("vision" in line for line in effects(rows) if line.startswith("image share"))


def test_an_axis_with_one_value_says_nothing() -> None:
    assert effects([row(0, 0.5, 0.1, epochs=1), row(0, 0.5, 0.2, epochs=4)]) == [
        "epochs 1 -> 4: vision +0.100 (1 pair), bits/byte +0.000 (1 pair)"
    ]
