"""The rules of VizWiz, TextVQA, the box tasks and POPE: values worked out by hand from the official scripts."""

import pytest

from stages.evaluation.metrics import (
    VIZWIZ_CONTRACTIONS,
    compute_box_accuracy_25,
    compute_box_accuracy_50,
    compute_gqa_accuracy,
    compute_iou,
    compute_textvqa_accuracy,
    compute_vizwiz_accuracy,
    compute_vqa_accuracy,
    compute_yes_no_accuracy,
    compute_yes_no_metrics,
    is_unanswerable,
    is_yes,
    normalise_answer,
    normalise_m4c,
    normalise_vizwiz,
    parse_box,
    remove_punctuation,
    render_box,
)


def test_at_most_32_periods_vanish() -> None:
    assert remove_punctuation("." * 40) == "." * 8  # the official scripts give a flag in the place of the count


@pytest.mark.parametrize("references", [("",) * 10, (".",) * 10, ("?",) * 9 + ("a",)])
def test_an_empty_answer_is_right_where_the_references_are_empty(references: tuple[str, ...]) -> None:
    assert compute_vqa_accuracy("", references) == (1.0 if references[0] != "?" else 0.0)  # a lone ? becomes a space
    assert compute_vqa_accuracy("the", references) == compute_vqa_accuracy("", references)


def test_gqa_counts_a_space_that_punctuation_leaves_behind() -> None:
    assert compute_gqa_accuracy("red .", ("red",)) == 0
    assert compute_gqa_accuracy("RED.", ("red",)) == 1


@pytest.mark.parametrize(
    ("given", "m4c", "vqa"),
    [
        ("1,000", "1000", "1000"),
        ("1, 2,3", "1 23", "1 23"),
        ("red,blue", "redblue", "red blue"),
        ("what?now", "whatnow", "what now"),
        ("John's", "john 's", "john's"),
        ("thats", "that's", "that's"),
        ("Two apples", "2 apples", "2 apples"),
        ("a\nb", "b", "b"),
        ("", "", ""),
    ],
)
def test_m4c_drops_commas_and_question_marks_and_parts_the_genitive(given: str, m4c: str, vqa: str) -> None:
    assert normalise_m4c(given) == m4c
    assert normalise_answer(given) == vqa


@pytest.mark.parametrize(("equal", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_textvqa_normalises_the_references_too(equal: int, expected: float) -> None:
    references = ["The John's!"] * equal + [f"other {number}" for number in range(10 - equal)]
    assert compute_textvqa_accuracy("john's", references) == pytest.approx(expected)
    assert compute_vqa_accuracy("john's", references) == 0


def test_vizwiz_takes_references_as_they_are() -> None:
    assert compute_vizwiz_accuracy("Red.", ["red"] * 10) == 1
    assert compute_vizwiz_accuracy("red", ["Red"] * 10) == compute_vizwiz_accuracy("red", ["red."] * 10) == 0
    assert compute_vizwiz_accuracy("two", ["two"] * 10) == 0  # the answer becomes 2, the references do not
    assert compute_vizwiz_accuracy("two", ["2"] * 3 + ["3"] * 7) == pytest.approx(0.9)


def test_vizwiz_mends_most_contractions_with_a_backtick() -> None:
    assert normalise_vizwiz("dont") == "don`t"
    assert normalise_vizwiz("cant weve") == "can't we've"
    assert normalise_vizwiz("couldn'tve y'allll") == "couldn`t`ve y'allll"
    assert len(VIZWIZ_CONTRACTIONS) == 75  # its 120 less two in capitals and 43 that the removed backticks hide
    assert is_unanswerable(" Unanswerable.")
    assert not is_unanswerable("unanswerable question")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[0.1, 0.2, 0.5, 0.6]", [0.1, 0.2, 0.5, 0.6]),
        (" [0.1,0.2,0.5,0.6]", [0.1, 0.2, 0.5, 0.6]),
        ("[0, 0, 1, 1]", [0, 0, 1, 1]),
        ("[0.1, 0.2, 0.5, 0.6,]", [0.1, 0.2, 0.5, 0.6]),
        ("[+.1, 2e-1, .5, .6]", [0.1, 0.2, 0.5, 0.6]),
        ("(0.1, 0.2, 0.5, 0.6)", None),
        ("0.1, 0.2, 0.5, 0.6", None),
        ("[0.1, 0.2, 0.5, 0.6].", None),
        ("The box is [0.1, 0.2, 0.5, 0.6]", None),
        ("[0.1, 0.2, 0.5]", None),
        ("[0.1, 0.2, 0.5, 0.6, 1]", None),
        ("[0.5, 0.2, 0.1, 0.6]", None),
        ("[0.1, 0.2, 0.1, 0.6]", None),
        ("[10, 20, 50, 60]", None),
        ("[-0.1, 0.2, 0.5, 0.6]", None),
        ("['0.1', '0.2', '0.5', '0.6']", None),
        ("[1j, 0, 1, 1]", None),
        ("[nan, 0, 1, 1]", None),
        ("", None),
        ("\x00", None),
        ("'\\d'", None),
        ("(" * 5_000, None),
        ("__import__('os')", None),
    ],
)
def test_a_box_is_a_list_of_four_fractions_with_its_corners_in_order(given: str, expected: list[float] | None) -> None:
    assert parse_box(given) == expected


def test_overlap_is_intersection_over_union() -> None:
    assert compute_iou([0, 0, 1, 1], [0, 0, 0.5, 1]) == 0.5
    assert compute_iou([0, 0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]) == pytest.approx(1 / 7)
    assert compute_iou([0, 0, 0.25, 1], [0.5, 0, 1, 1]) == 0


def test_the_thresholds_count_as_reached_when_they_are_met() -> None:
    half, quarter = "[0, 0, 0.5, 1]", "[0, 0, 0.25, 1]"
    whole = ("[0.0, 0.0, 1.0, 1.0]",)
    assert (compute_box_accuracy_50(half, whole), compute_box_accuracy_25(half, whole)) == (1, 1)
    assert (compute_box_accuracy_50(quarter, whole), compute_box_accuracy_25(quarter, whole)) == (0, 1)
    assert compute_box_accuracy_25("[0, 0, 0.24, 1]", whole) == compute_box_accuracy_25("no box", whole) == 0


def test_reference_boxes_are_rounded_to_two_places() -> None:
    assert render_box((1, 2, 321, 241), 640, 480) == "[0.0, 0.0, 0.5, 0.5]"
    for bad in ((10, 10, 10, 20), (0, 0, 641, 480)):
        with pytest.raises(ValueError, match="no area or leaves the image of 640 x 480"):
            render_box(bad, 640, 480)


@pytest.mark.parametrize(
    ("given", "yes"),
    [
        ("Yes", True), ("No", False), ("no", False), ("NO", True), ("No, there is none", False),
        ("is not", False), ("Yes. No", True), ("nothing", True), ("", True), ("no\n", True),
    ],
)  # fmt: skip
def test_pope_reads_no_as_one_of_three_words_of_the_first_sentence(given: str, yes: bool) -> None:
    assert is_yes(given) is yes
    assert compute_yes_no_accuracy(given, ("yes",)) == yes
    assert compute_yes_no_accuracy(given, ("no",)) == (not yes)


def test_pope_reports_precision_recall_f1_and_the_share_of_yes() -> None:
    found = compute_yes_no_metrics(["yes", "yes", "yes", "no"], ["yes", "no", "yes", "yes"])
    expected = {"accuracy": 0.5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 0.75}
    assert found == pytest.approx(expected)
    none = compute_yes_no_metrics(["no", "no"], ["no", "no"])
    assert none == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}
