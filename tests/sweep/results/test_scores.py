"""Stable scores and their errors."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.results.scores import build_score_columns, compute_stable_score, parse_task_scores


def entry(**changes: Any) -> dict[str, Any]:
    return {"kind": "vision", "metrics": {}, "score": 0.5, "stderr": 0.02, "chance": 0.25, "n": 100} | changes


def values(**tasks: dict[str, Any]) -> dict[str, Any]:
    return build_score_columns(parse_task_scores({"scores": tasks}))


def test_a_stable_score_is_the_mean_above_chance() -> None:
    found = values(a=entry(score=0.6, chance=0.25), b=entry(score=0.7, chance=0.5))
    assert found["vision_stable_score"] == pytest.approx((0.35 + 0.2) / 2)
    assert found["vision_accuracy"] == pytest.approx(0.65)
    assert found["vision_chance"] == pytest.approx(0.375)


def test_its_error_is_that_of_independent_tasks() -> None:
    found = values(a=entry(stderr=0.03), b=entry(stderr=0.04))
    assert found["vision_stable_stderr"] == pytest.approx(0.05 / 2)


def test_one_unknown_error_makes_the_sum_unknown() -> None:
    assert values(a=entry(), b=entry(stderr=None))["vision_stable_stderr"] is None


def test_a_task_without_chance_is_reported_and_not_in_the_mean() -> None:
    found = values(a=entry(score=0.6), vizwiz=entry(score=0.1, chance=None))
    assert found["vision_stable_score"] == pytest.approx(0.35)
    assert [task["task"] for task in found["scores"]] == ["a", "vizwiz"]


def test_held_out_text_and_loss_tasks_have_their_own_columns() -> None:
    found = values(
        shapes_val=entry(score=0.9),
        shapes_heldout=entry(score=0.6),
        other_held_out=entry(score=0.8),
        cloze=entry(kind="text", score=0.3),
        text_loss=entry(kind="loss", score=2.1, stderr=None, chance=None),
    )
    assert found["vision_stable_score"] == pytest.approx(0.65)
    assert found["heldout_vision_stable_score"] == pytest.approx(0.45)
    assert found["text_stable_score"] == pytest.approx(0.05)
    assert found["bits_per_byte"] == 2.1


def test_no_tasks_of_a_kind_leave_its_columns_out() -> None:
    assert "text_stable_score" not in values(a=entry())
    assert compute_stable_score([]) is None


@pytest.mark.parametrize(
    "scores", [None, 3, [], {"a": None}, {"a": {"score": "high"}}, {"a": {"score": True}}, {"a": {"kind": "vision"}}]
)
def test_unreadable_scores_are_left_out(scores: Any) -> None:
    assert parse_task_scores({"scores": scores}) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1)), min_size=1, max_size=9))
def test_score_is_accuracy_minus_chance_whatever_the_tasks(tasks: list[tuple[float, float, float]]) -> None:
    found = values(
        **{
            f"t{index}": entry(score=score, chance=chance, stderr=stderr)
            for index, (score, chance, stderr) in enumerate(tasks)
        }
    )
    expected = math.fsum(score - chance for score, chance, _ in tasks) / len(tasks)
    assert found["vision_stable_score"] == pytest.approx(expected, abs=1e-12)
    assert found["vision_accuracy"] - found["vision_chance"] == found["vision_stable_score"]
    assert found["vision_stable_stderr"] <= max(stderr for *_, stderr in tasks) + 1e-12
