"""Addresses of data sets: one place, a list of places, or webdataset's patterns of them. Nothing here needs torch.

    data/dclm                                  a folder of shards
    data/dclm/manifest.jsonl                   a manifest: its shards and no others, with their counts
    s3://bucket/{00000..01279}.tar             braces, as webdataset expands them (the package braceexpand)
    data/captions/*.tar                        a pattern of names on this machine
    data/a::data/b                             a list, as webdataset writes one; a sweep file may also give a YAML list

A path that exists as it is written is that path, whatever letters are in it.
"""

import glob
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from stages.errors import DataError

SEPARATOR = "::"
MANIFEST_SUFFIX = ".jsonl"
MOST_PLACES = 1_000_000
"""That one address may mean: a typing error in a range is not to fill the memory."""
MOST_NESTED = 8
INTEGER_RANGE = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([0-9]+))?")
LETTER_RANGE = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?[0-9]+)?")
LETTERS, MOST_DIGITS = 52, 12
GLOB_MARKS = set("*?[")


class AbsentPlaceError(DataError):
    """A pattern that no file on this machine fits."""


class AddressError(ValueError):
    """An address that means no place; the message says why, and what would do."""


def join_places(places: Sequence[str]) -> str:
    """The address that means all these places, in this order; `split_places` takes it apart."""
    return SEPARATOR.join(places)


def split_places(address: str) -> list[str]:
    """The addresses of a list, patterns as they are; the one address, if it is no list."""
    return address.split(SEPARATOR)


def is_remote(place: str) -> bool:
    """Whether a place is an address of a store or web server."""
    return "://" in place


def has_pattern(address: str) -> bool:
    """Whether an address may mean other than one place by its letters: it is a list or a pattern."""
    return SEPARATOR in address or "{" in address or (not is_remote(address) and bool(GLOB_MARKS & set(address)))


def has_several_places(address: str, folder: Path = Path()) -> bool:
    """Whether an address is a list or a pattern, and no path below `folder` that exists as it is written."""
    # os.path: a list may be longer than any path, which Path.exists raises for
    return has_pattern(address) and not os.path.exists(folder / address)  # noqa: PTH110


# Why: docs/decisions.md, D148
def count_places(pattern: str) -> int:
    """How many places the braces of a pattern mean, without making one of them. AddressError if they mean none.

    braceexpand makes every name of a range before it gives the first.
    """
    if "\\" in pattern:
        raise AddressError(f"{pattern[:200]!r}: a backslash is not taken in a pattern")
    levels = [_Level()]
    for part in re.split(r"([{},])", pattern):
        if part == "{":
            levels.append(_Level())
            if len(levels) > MOST_NESTED:
                raise AddressError(f"{pattern[:200]!r}: braces stand more than {MOST_NESTED - 1} deep")
        elif part == "}" and len(levels) > 1:
            closed = levels.pop()
            levels[-1].product *= closed.count_alternatives()
            levels[-1].text += "}"
        elif part == "}":
            raise AddressError(f"{pattern[:200]!r}: a brace is closed that is not open")
        elif part == "," and len(levels) > 1:
            levels[-1].begin_alternative()
        else:
            levels[-1].text += part
    if len(levels) > 1:
        raise AddressError(f"{pattern[:200]!r}: a brace is not closed")
    if levels[0].product > MOST_PLACES:
        raise AddressError(
            f"{pattern[:200]!r} means {levels[0].product:,} places; the most is {MOST_PLACES:,}; correct its ranges"
        )
    return levels[0].product


class _Level:
    """What stands between two braces, as far as it is read."""

    def __init__(self) -> None:
        self.text, self.product, self.sum, self.commas = "", 1, 0, 0

    def begin_alternative(self) -> None:
        self.sum, self.product, self.commas = self.sum + self.product, 1, self.commas + 1

    def count_alternatives(self) -> int:
        if self.commas:
            return self.sum + self.product
        if found := INTEGER_RANGE.fullmatch(self.text):
            if max(map(len, found.groups(default=""))) > MOST_DIGITS:
                raise AddressError(f"{{{self.text[:200]}}}: a number has more than {MOST_DIGITS} digits")
            first, last, step = int(found[1]), int(found[2]), int(found[3] or 1) or 1
            return abs(last - first) // step + 1
        return LETTERS if LETTER_RANGE.fullmatch(self.text) else self.product


def check_braces(address: str) -> None:
    """AddressError if the places of an address cannot be named: a brace is wrong, or they are too many."""
    places = split_places(address)
    if not all(places):
        raise AddressError(f"{address[:200]!r}: a place of the list is empty")
    if (count := sum(map(count_places, places))) > MOST_PLACES:
        raise AddressError(f"{address[:200]!r} means {count:,} places; the most is {MOST_PLACES:,}")


def expand_braces(place: str) -> list[str]:
    """The places that the braces of one place mean, in their order; AddressError."""
    count_places(place)
    try:
        return list(braceexpand(place))
    except ValueError as error:
        raise AddressError(f"{place[:200]!r}: {error}") from error


def expand_address(address: str) -> list[str]:
    """All places of an address, lists and patterns taken apart, in the order of its words; names of `*` are sorted.

    AbsentPlaceError if no file fits a pattern; DataError for a wrong pattern, or a place that is named twice.
    """
    try:
        check_braces_unless_there(address)
        places = [found for place in split_places(address) for found in _expand_place(place)]
    except AddressError as error:
        raise DataError(str(error)) from error
    if len(set(places)) < len(places):
        seen: set[str] = set()
        twice = next(place for place in places if place in seen or seen.add(place))  # type: ignore[func-returns-value]
        raise DataError(f"{address[:200]!r} names {twice} twice")
    return places


def check_braces_unless_there(address: str) -> None:
    """`check_braces` of those places that are no path as they are written."""
    for place in split_places(address):
        if is_remote(place) or not os.path.lexists(place):
            check_braces(place)


def _expand_place(place: str) -> list[str]:
    if is_remote(place):
        return expand_braces(place)
    if os.path.lexists(place):
        return [place]
    return [found for name in expand_braces(place) for found in _expand_names(name)]


def _expand_names(name: str) -> list[str]:
    """The paths that `*`, `?` and `[...]` mean; hidden files are none."""
    if not GLOB_MARKS & set(name) or os.path.lexists(name):
        return [name]
    found = list(islice(glob.iglob(name), MOST_PLACES + 1))  # noqa: PTH207 - a whole pattern, absolute or not
    if not found:
        raise AbsentPlaceError(f"{name}: no file has such a name")
    if len(found) > MOST_PLACES:
        raise DataError(f"{name}: more than {MOST_PLACES:,} files have such a name")
    return sorted(found)


def make_absolute(address: str, folder: Path) -> str:
    """The address with each path that is relative below `folder`."""
    return join_places([place if is_remote(place) else str(folder / place) for place in split_places(address)])


def is_elsewhere(address: str) -> bool:
    """Whether all places of an address are addresses of stores or web servers."""
    return all(map(is_remote, split_places(address)))


# Why: docs/decisions.md, D173
def list_near_paths(address: str) -> list[Path]:
    """The places of an address that are on this machine, without those elsewhere; DataError as `expand_address`."""
    places = expand_address(address) if has_several_places(address) else [address]
    return [Path(place) for place in places if not is_remote(place)]


def list_local_paths(address: str) -> list[Path]:
    """The paths that an address means on this machine; DataError if one is elsewhere."""
    places = expand_address(address)
    if remote := next(filter(is_remote, places), ""):
        raise DataError(f"{remote}: not a local path; copy it and give that")
    return [Path(place) for place in places]
