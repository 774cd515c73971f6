"""The order of what several writers wrote: by numbers that they gave, each one more than any it had seen.

Clocks of two machines are never compared. Only what an earlier version wrote has no number; its time places it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TypeVar

Item = TypeVar("Item")

LARGEST = 10**15
"""A larger number is no number of ours: the next one could not be told from it in JSON of every reader."""


# Why: docs/decisions.md, D161
def sort_by_order(items: Iterable[Item], describe: Callable[[Item], tuple[int, float]]) -> list[Item]:
    """Oldest first; what has the same number stays in the order in which it is given.

    `describe` gives an item's number and its time (Unix seconds). Number 0: it has none. Such an item comes behind
    every numbered one that is stamped no later than it.
    """
    known = [(*describe(item), item) for item in items]
    numbered = sorted((time, number) for number, time, _ in known if number)
    times = [time for time, _ in numbered]
    highest = list(accumulate((number for _, number in numbered), max))

    def find_place(entry: tuple[int, float, Item]) -> tuple[int, bool, float]:
        number, time, _ = entry
        if number:
            return number, False, 0.0
        seen = bisect_right(times, time)
        return (highest[seen - 1] if seen else 0), True, time

    return [item for _, _, item in sorted(known, key=find_place)]


def parse_order(value: object) -> int:
    """The number that a stored record holds; 0 if it holds none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST else 0
