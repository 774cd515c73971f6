import pytest

from jobs.counted import format_counted
from sweep.text_format import (
    format_bytes,
    format_columns,
    format_duration,
    format_hours,
    format_labelled_lines,
    format_large_number,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "-"),
        (0.004, "0.004"),
        (0.0002, "<0.001"),
        (0.456, "0.46"),
        (12.34, "12.3"),
        (99.9, "99.9"),
        (106_004.6, "106,005"),
    ],
)
def test_hours(value: float, text: str) -> None:
    assert format_hours(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "30 min"), (1.99, "119 min"), (7.5, "7.5 h"), (48, "2.0 days")])
def test_spans(value: float, text: str) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1_578_280_960, "1.6B"), (5e15, "5000.0T")])
def test_counts(value: float, text: str) -> None:
    assert format_large_number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "-"), (1_023, "1023 B"), (1_024, "1.0 KiB"), (6 * 2**40, "6.0 TiB")])
def test_sizes(value: float, text: str) -> None:
    assert format_bytes(value) == text


def test_one_thing_has_no_plural() -> None:
    assert [format_counted(number, "job") for number in (0, 1, 2_710)] == ["0 jobs", "1 job", "2,710 jobs"]
    told = [format_counted(number, "job has", "jobs have") for number in (0, 1, 2_710)]
    assert told == ["0 jobs have", "1 job has", "2,710 jobs have"]


def test_columns_are_aligned_and_no_line_ends_in_a_space() -> None:
    assert format_columns([["name", "n", ""], ["a", "1", ""], ["bcdef", "20", ""]], rules=(1,)) == [
        "name    n",
        "-----------",
        "a       1",
        "bcdef  20",
    ]


def test_labels_are_as_wide_as_the_widest() -> None:
    assert format_labelled_lines([("time", "2 h"), ("", "more"), ("shared", "no")]) == [
        "time    2 h",
        "        more",
        "shared  no",
    ]
