"""Addresses of data sets: what they mean is what webdataset means by them, and bounded."""

import tracemalloc
import warnings
from pathlib import Path

import pytest
from braceexpand import braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.addresses import AbsentPlaceError, AddressError, check_braces, count_places, expand_address
from stages.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from webdataset.shardlists import expand_urls

ADDRESSES = [
    "s3://bucket/{00000..01279}.tar",
    "s3://bucket/{train,val}-{00..10..5}.tar::s3://other/part-{a..c}.tar",
    "https://host/{{00..02},{20..22}}.tar",
    "gs://b/{x}-{,.syn}.tar",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_braces_and_lists_mean_what_webdataset_means(address: str) -> None:
    assert expand_address(address) == expand_urls(address)


@settings(max_examples=1_500, deadline=None)
@given(pattern=st.text("{}{},..01239ab-", max_size=14))
def test_the_count_of_a_pattern_bounds_what_the_package_makes_of_it(pattern: str) -> None:
    try:
        count = count_places(pattern)
    except AddressError:
        return
    made = len(list(braceexpand(pattern)))
    assert made <= count
    if ".." not in pattern:
        assert made == count


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("s3://b/{0..99999999999}.tar", "the most is 1,000,000"),
        ("s3://b/{0..9999}{0..9999}{0..9999}", "the most is 1,000,000"),
        ("s3://b/{0..9999}/{a{0..9999}{0..9999},b}", "the most is 1,000,000"),
        ("s3://b/{0..1" + "0" * 500 + "}", "more than 12 digits"),
        ("{" * 400 + "a,b" + "}" * 400, "7 deep"),
        ("s3://b/{0..9", "is not closed"),
        ("s3://b/0..9}", "is not open"),
        ("a::", "is empty"),
        ("::".join(["s3://b/{0..999998}"] * 2), "means 1,999,998 places"),
    ],
)
def test_a_pattern_of_too_many_places_is_refused_before_any_is_made(address: str, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(AddressError, match=reason):
            check_braces(address)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_braceexpand_itself_is_not_asked_for_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="Unbalanced braces"):
        list(braceexpand("{a"))
    with pytest.raises(DataError, match="is not closed"):
        expand_address("{a")


def test_names_of_a_pattern_are_sorted_and_hidden_files_are_none(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", ".a.tar", "._b.tar", "c.txt"):
        (tmp_path / name).touch()
    assert expand_address(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert expand_address(f"{tmp_path}/{{b,a}}.tar") == [f"{tmp_path}/b.tar", f"{tmp_path}/a.tar"]
    with pytest.raises(AbsentPlaceError, match=r"x\*\.tar: no file has such a name"):
        expand_address(f"{tmp_path}/x*.tar")
    with pytest.raises(DataError, match=r"names .*/a\.tar twice"):
        expand_address(f"{tmp_path}/*.tar::{tmp_path}/a.tar")


def test_a_path_that_is_there_as_it_is_written_is_no_pattern(tmp_path: Path) -> None:
    for name in ("{a,b}.tar", "x[1].tar", "x1.tar"):
        (tmp_path / name).touch()
    assert expand_address(f"{tmp_path}/{{a,b}}.tar") == [f"{tmp_path}/{{a,b}}.tar"]
    assert expand_address(f"{tmp_path}/x[1].tar") == [f"{tmp_path}/x[1].tar"]
