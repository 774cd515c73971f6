"""Changes of JSON that keep it JSON, or nearly: wrong types, depth, huge numbers, keys twice, half characters."""

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from tests.fuzz.byte_changes import change_bytes


class Raw(str):
    """Text that stands in JSON as it is."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object that may have a key twice."""


def load_pairs(text: str | bytes) -> Any:
    """Parsed JSON whose objects are `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def render_json(value: Any) -> str:
    """JSON of parsed JSON, `Raw` and `Pairs`."""
    match value:
        case Raw():
            return str(value)
        case Pairs():
            return "{" + ", ".join(f"{json.dumps(key)}: {render_json(part)}" for key, part in value) + "}"
        case dict():
            return render_json(Pairs(value.items()))
        case list() | tuple():
            return "[" + ", ".join(map(render_json, value)) + "]"
    return json.dumps(value)


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64),
    -(2**63) - 1,
    *(Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1" + "0" * 400)),
    Raw("9" * 5000),
    *(Raw("1e-400"), Raw("0.1e1"), Raw("-0"), Raw("01"), Raw("0x10"), Raw("1_000"), Raw("nul"), Raw("'a'"), Raw("")),
    *("", " ", "a", "\0", "a\0b", "\ud800", "\udc00\ud800", "²", "٣", "١٢", "1", "-1", "true", "null", "nan"),
    *("\n", "\r\nx"),
    *("\x1b[31m", "\u202e", "\ufeff", "é", "🙂", "a" * 300, "x" * 70_000, "../../../etc/passwd", "/etc/passwd", "."),
    *("..", "a/b", "C:\\x", "file:///etc/passwd", "{}", "%s%n", "{{ 7 * 7 }}", "$(id)", "`id`", "; ls", "-rf"),
    "--help",
    *([], {}, [[]], [None], [{}], {"": None}, {"a": {"a": {}}}, [1, "a", None], ["a"] * 3, list(range(50))),
    *(Raw("[" * 40 + "]" * 40), Raw("[" * 2_000 + "]" * 2_000), Raw("[" * 100_000)),
    Raw('{"a":' * 5_000 + "1" + "}" * 5_000),
    *(Raw("[" * 100_000 + "]" * 100_000), Raw('{"a": 1, "a": 2}'), Raw('"\\ud83d"'), Raw('"\\u0000"'), Raw('"\\x41"')),
)  # fmt: skip
"""Values that a reader may not expect."""


def change_json(dice: random.Random, content: bytes) -> bytes:
    """JSON, or JSON lines, after one to three changes; sometimes of its bytes."""
    if dice.random() < 0.2:
        return change_bytes(dice, content)
    if b"\n{" in content.strip() and dice.random() < 0.9:
        return _change_lines(dice, content)
    try:
        tree = load_pairs(content)
    except (ValueError, RecursionError):
        return change_bytes(dice, content)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        tree = change_tree(dice, tree)
    return _encode(dice, render_json(tree))


def _encode(dice: random.Random, text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _change_lines(dice: random.Random, content: bytes) -> bytes:
    """One line changed, moved, doubled or taken out."""
    lines = content.strip().split(b"\n")
    place = dice.randrange(len(lines))
    match dice.randrange(6):
        case 0:
            lines.insert(dice.randrange(len(lines)), lines[place])
        case 1:
            del lines[place]
        case 2:
            dice.shuffle(lines)
        case _:
            lines[place] = change_json(dice, lines[place] or b"{}").replace(b"\n", b" ")
    return b"\n".join(lines)


def change_tree(dice: random.Random, tree: Any) -> Any:
    """Parsed JSON (`load_pairs`) after one change; `tree` itself may be changed as well."""
    holder: list[Any] = [tree]
    spots = list(iter_spots(holder))
    keys = [spot for spot in spots if isinstance(spot[0], Pairs)]
    kind = dice.randrange(10)
    parent, index = dice.choice(keys if keys and kind in {1, 2, 3, 4} else spots)
    if isinstance(parent, Pairs):
        _change_pair(dice, parent, index, kind, spots)
    else:
        _change_item(dice, parent, index, kind, spots)
    return holder[0] if holder else None


Spot = tuple[list[Any], int]


def iter_spots(holder: list[Any]) -> Iterator[Spot]:
    """All places in a tree: a list or `Pairs`, and a number in it. Of long lists some."""
    waiting: list[list[Any]] = [holder]
    while waiting:
        parent = waiting.pop()
        for index, entry in enumerate(parent):
            if index > 200 and index % 50:
                continue
            part = entry[1] if isinstance(parent, Pairs) else entry
            yield parent, index
            if isinstance(part, list):
                waiting.append(part)


def _get(spot: Spot) -> Any:
    """A copy of what is there."""
    parent, index = spot
    return deepcopy(parent[index][1] if isinstance(parent, Pairs) else parent[index])


def _change_pair(dice: random.Random, parent: Pairs, index: int, kind: int, spots: list[Spot]) -> None:
    key, value = parent[index]
    match kind:
        case 1:
            del parent[index]
        case 2:
            parent.insert(dice.randrange(len(parent) + 1), (key, dice.choice(HOSTILE)))
        case 3:
            parent[index] = (pick_key(dice, key), value)
        case 4:
            parent.append((pick_key(dice, key), _get(dice.choice(spots))))
        case _:
            parent[index] = (key, pick_value(dice, value, lambda: _get(dice.choice(spots))))


def _change_item(dice: random.Random, parent: list[Any], index: int, kind: int, spots: list[Spot]) -> None:
    match kind:
        case 1:
            del parent[index]
        case 2:
            parent.insert(dice.randrange(len(parent) + 1), _get((parent, index)))
        case 3:
            parent.extend(_get((parent, index)) for _ in range(dice.choice((1, 10, 100))))
        case _:
            parent[index] = pick_value(dice, parent[index], lambda: _get(dice.choice(spots)))


def pick_key(dice: random.Random, key: str) -> str:
    """A key that is not `key`, or nearly."""
    others = (
        "",
        "a",
        "\0",
        "\ud800",
        "__class__",
        "²",
        "x" * 500,
        "a\nb",
        "\x1b[2J",
        key.upper(),
        key + "s",
        key[:-1],
        f" {key}",
    )
    return dice.choice(others)


def pick_value(dice: random.Random, value: Any, pick_other: Callable[[], Any]) -> Any:
    """A value in place of `value`: a hostile one, a near one, or another of the same tree."""
    match dice.randrange(8):
        case 0:
            return pick_other()
        case 1 if isinstance(value, bool | int | float):
            return dice.choice((-value, value + 1, value - 1, value * 10, value / 3, str(value), [value], float(value)))
        case 1 | 2 if isinstance(value, str):
            place = dice.randrange(len(value) + 1)
            odd = dice.choice(
                ("\0", "\ud800", "/", "..", "\n", "²", " ", "\x1b[0m", "{", "}}", "%", "'", '"', "\\", "🙂")
            )
            return dice.choice(
                (value[:place] + odd + value[place:], value[:place], value + value, value.upper(), [value])
            )
        case 1 | 2 if isinstance(value, list):
            return dice.choice(([], [value], [*value, *deepcopy(value)], value[:1], Pairs([("a", value)])))
    return dice.choice(HOSTILE)
