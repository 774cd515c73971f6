"""Which rows a figure shows."""

from typing import Any

import pytest

from sweep.results.slices import BITS_PER_BYTE, VISION, Row, build_slice, find_best_row
from tests.sweep.results.score_rows import row


def scores(rows: list[dict[str, Any]], x: str, series: str) -> dict[Any, list[tuple[Any, float]]]:
    found = build_slice(rows, VISION, x, series)
    return {value: [(point.x, point.y) for point in points] for value, points in found.lines.items()}


def test_a_line_holds_the_points_of_one_series_in_order_of_x() -> None:
    rows = [
        row(branch=branch, image_share=share, vision_stable_score=branch + share)
        for branch in (100, 0, 50)
        for share in (0.5, 0.1)
    ]
    assert scores(rows, "branch", "image_share") == {
        0.1: [(0, 0.1), (50, 50.1), (100, 100.1)],
        0.5: [(0, 0.5), (50, 50.5), (100, 100.5)],
    }


def test_other_axes_are_held_at_their_most_frequent_value() -> None:
    rows = [row(branch=branch, captions="dense") for branch in (0, 50)]
    rows.append(row(branch=0, captions="short", vision_stable_score=0.9))
    found = build_slice(rows, VISION, "branch", "image_share")
    assert found.held["captions"] == "dense"
    assert [point.y for point in found.lines[0.5]] == [0.2, 0.2]


def test_ties_go_to_the_best_model() -> None:
    rows = [
        row(epochs=epochs, branch=branch, vision_stable_score=0.1 * epochs) for epochs in (1, 2) for branch in (0, 50)
    ]
    assert build_slice(rows, VISION, "branch", "image_share").held["epochs"] == 2


def test_a_model_without_images_belongs_to_every_slice() -> None:
    rows = [row(branch=branch, captions="dense") for branch in (0, 50)]
    rows += [row(branch=branch, image_share=0.0, captions=None, encoder=None) for branch in (0, 50)]
    assert set(scores(rows, "branch", "image_share")) == {0.0, 0.5}


def test_several_seeds_are_averaged_and_their_spread_is_the_error() -> None:
    rows = [row(seed=seed, vision_stable_score=score) for seed, score in ((1, 0.2), (2, 0.3), (3, 0.4))]
    (point,) = build_slice(rows, VISION, "branch", "image_share").lines[0.5]
    assert point.seeds == 3
    assert point.y == pytest.approx(0.3)
    assert point.error == pytest.approx(0.1)


def test_a_seed_among_the_overrides_is_a_seed_too() -> None:
    rows = [row(overrides=[("finetune.seed", str(seed))], vision_stable_score=seed / 1000) for seed in (7, 365)]
    (point,) = build_slice(rows, VISION, "branch", "image_share").lines[0.5]
    assert point.seeds == 2
    rows[1]["overrides"].append(("finetune.peak_lr", "0.1"))
    (point,) = build_slice(rows, VISION, "branch", "image_share").lines[0.5]
    assert point.seeds == 1


def test_cells_that_differ_in_name_only_are_no_seeds() -> None:
    (point,) = build_slice([row(), row()], VISION, "branch", "image_share").lines[0.5]
    assert (point.seeds, point.error) == (1, 0.01)


def test_chance_is_told_only_where_all_rows_agree() -> None:
    rows = [row(), row(branch=50)]
    assert build_slice(rows, VISION, "branch", "image_share").chance == 0.25
    rows[0]["vision_chance"] = 0.5
    assert build_slice(rows, VISION, "branch", "image_share").chance is None
    assert build_slice(rows, BITS_PER_BYTE, "branch", "image_share").chance is None


def test_the_best_model_is_that_with_the_best_vision_score_else_text_else_loss() -> None:
    def without_vision(**changes: Any) -> Row:
        return row(vision_stable_score=None, **changes)

    assert find_best_row([row(), row(epochs=4, vision_stable_score=0.3)]) == row(epochs=4, vision_stable_score=0.3)
    text = [without_vision(text_stable_score=score) for score in (0.1, 0.2)]
    assert find_best_row(text) == text[1]
    loss = [without_vision(bits_per_byte=bits) for bits in (2.1, 2.4)]
    assert find_best_row(loss) == loss[0]
    assert find_best_row([without_vision()]) is None
