"""The scoring rules against values worked out by hand from the official scripts' rules."""

import pytest

from stages.evaluation.metrics import (
    CONTRACTIONS,
    compute_exact_match,
    compute_gqa_accuracy,
    compute_vqa_accuracy,
    normalise_answer,
    remove_punctuation,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Two", "2"),
        ("a red   star.", "red star"),
        ("The END", "end"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("1,000", "1000"),
        ("yes, it is", "yes it is"),  # the comma touches a space
        ("red/blue", "red blue"),  # the slash does not
        ("3.5", "3.5"),
        ("st. louis", "st louis"),
        ("x-ray!", "x ray"),
        ("line one\nline two\t", "line 1 line 2"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_vqav2_does(given: str, expected: str) -> None:
    assert normalise_answer(given) == expected


def test_only_punctuation_that_touches_a_space_vanishes() -> None:
    assert remove_punctuation("a-b -c") == "ab c"  # one touching mark takes all its kind along, as in the original
    assert remove_punctuation("a-b;c") == "a b c"


def test_contractions_are_those_of_the_official_table() -> None:
    assert len(CONTRACTIONS) == 114  # its 120 less two that change nothing and four in capitals, which never match
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert not {"its", "were", "ill", "hell", "shell", "wed", "im", "ive"} & CONTRACTIONS.keys()


@pytest.mark.parametrize(
    ("equal", "expected"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],  # leave one out: 3 equal give (3*2/3 + 7*1)/10
)
def test_vqa_accuracy_counts_the_references_that_agree(equal: int, expected: float) -> None:
    references = ["red"] * equal + [f"other {number}" for number in range(10 - equal)]
    assert compute_vqa_accuracy("Red.", references) == pytest.approx(expected)


def test_vqa_accuracy_leaves_the_case_of_references_alone() -> None:
    assert compute_vqa_accuracy("red", ["Red"] * 10) == 0


@pytest.mark.parametrize(
    ("given", "references", "expected"),
    [("Red.", ("red",), 1), ("the red", ("red",), 0), ("two", ("2",), 0), ("left!", ("right", "left"), 1)],
)
def test_gqa_accuracy_is_equality_in_lower_case_without_punctuation(
    given: str, references: tuple[str, ...], expected: float
) -> None:
    assert compute_gqa_accuracy(given, references) == expected


@pytest.mark.parametrize(("given", "expected"), [("two", 1), ("2", 1), ("The two.", 1), ("twos", 0), ("", 0)])
def test_exact_match_normalises_both_sides(given: str, expected: float) -> None:
    assert compute_exact_match(given, ("Two",)) == expected
