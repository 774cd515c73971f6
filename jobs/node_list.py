"""Node lists as clusters write them: `n1`, `n[1-3,7]`, `gpu[01-04],login2`."""

import re
from itertools import islice

MOST_NODES = 4_096
"""More names than that are not unfolded from one list."""
PART = re.compile(r"(?:\[[^\]]*(?:\]|\Z)|[^,\[])+")
GROUP = re.compile(r"\[([^\]]*)\]")
RANGE = re.compile(r"(\d+)-(\d+)")


def node_names(text: str) -> tuple[str, ...]:
    """The names, in order. What is not understood stays as it is written, and a list that is too long is cut."""
    names: list[str] = []
    for part in PART.findall(text):
        names += _unfolded(part)
    return tuple(dict.fromkeys(names[:MOST_NODES]))


def _unfolded(part: str) -> list[str]:
    group = GROUP.search(part)
    if group is None:
        return [part]
    head, tail = part[: group.start()], _unfolded(part[group.end() :]) or [""]
    numbers = [number for piece in group[1].split(",") for number in _numbers(piece)]
    return list(islice((f"{head}{number}{rest}" for number in numbers for rest in tail), MOST_NODES))


def _numbers(piece: str) -> list[str]:
    """`01-03` as 01, 02, 03: zeros in front are kept."""
    bounds = RANGE.fullmatch(piece)
    if bounds is None:
        return [piece]
    first, last = int(bounds[1]), int(bounds[2])
    return [str(number).zfill(len(bounds[1])) for number in range(first, min(last, first + MOST_NODES) + 1)]
