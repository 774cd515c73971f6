"""Changes of YAML: its lines, its marks (anchors, aliases, merge keys, tags, tabs) and the values in it."""

import random
import re
from typing import Any

import yaml

from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.json_changes import Pairs, change_tree, render_json


def change_yaml(dice: random.Random, content: bytes) -> bytes:
    """One document after one to three changes of its lines, its values or its bytes."""
    kind = dice.random()
    if kind < 0.12:
        return change_bytes(dice, content)
    if kind < 0.5:
        tree = load_tree(content)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            tree = change_tree(dice, tree)
        text = render_blocks(dice, tree)
        return text.encode("utf-8", "surrogatepass")
    lines = content.decode().split("\n")
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        dice.choice(LINE_CHANGES)(dice, lines)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def load_tree(content: bytes) -> Any:
    """Parsed YAML with `Pairs` for mappings."""

    def to_pairs(value: Any) -> Any:
        if isinstance(value, dict):
            return Pairs((str(key), to_pairs(part)) for key, part in value.items())
        return [to_pairs(part) for part in value] if isinstance(value, list) else value

    return to_pairs(yaml.safe_load(content))


def render_blocks(dice: random.Random, tree: Any) -> str:
    """YAML with the first level as lines, the rest as JSON, which YAML is nearly."""
    if isinstance(tree, Pairs) and dice.random() < 0.8:
        return "".join(f"{render_key(key)}: {render_json(value)}\n" for key, value in tree)
    return render_json(tree)


def render_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_.-]+", key) else render_json(key)


VALUES = (
    *("", "~", "null", "yes", "no", "on", "true", "0", "-1", "1e400", ".inf", "-.inf", ".nan", "0o17", "0x1F"),
    *("1_000", "1:30"),
    *("2026-11-29", "1e3", "+1", "1.", ".5", "9" * 400, "0." + "1" * 400, "[]", "{}", "[1, 2", "{a: 1", "'"),
    *('"', '"\\ud800"'),
    *('"\\0"', '"\\x1b[31m"', '"\\u202e"', "*a", "*x", "&a 1", "!!int 5"),
    *("!!python/object/apply:os.system [id]", "!x 1"),
    *("!!binary aGk=", "!!set {a}", "!!str 5", "!!float 1", "!!null x", "| \n  text", "> \n  text", "- 1"),
    *("? a", "a: b: c", "@x"),
    *("`x`", "%a", "# none", "a #b", "a\tb", "\t", "é", "🙂", "\u2028x", "\ufeff", "²", "/etc/passwd", "../.."),
    "x" * 5000,
    *("[" * 50 + "]" * 50, "[" * 2000, "{a: " * 60 + "1" + "}" * 60, "[*a, *a, *a]", "<<", "$STORE", "$HOME/x"),
    *("${x}", "s3://b/x"),
)  # fmt: skip


def _change_value(dice: random.Random, lines: list[str]) -> None:
    place = dice.randrange(len(lines))
    head, colon, _ = lines[place].partition(":")
    lines[place] = f"{head}{colon} {dice.choice(VALUES)}"


def _change_inner(dice: random.Random, lines: list[str]) -> None:
    """A word within a line."""
    place = dice.randrange(len(lines))
    words = list(re.finditer(r"[\w.\-$/]+", lines[place].partition(" #")[0]))
    if words:
        word = dice.choice(words)
        lines[place] = lines[place][: word.start()] + dice.choice(VALUES) + lines[place][word.end() :]


def _swap_words(dice: random.Random, lines: list[str]) -> None:
    first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
    one, two = (lines[place].partition(":") for place in (first, second))
    lines[first], lines[second] = one[0] + one[1] + two[2], two[0] + two[1] + one[2]


def _double_line(dice: random.Random, lines: list[str]) -> None:
    lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))


def _drop_line(dice: random.Random, lines: list[str]) -> None:
    if len(lines) > 1:
        del lines[dice.randrange(len(lines))]


def _indent(dice: random.Random, lines: list[str]) -> None:
    place = dice.randrange(len(lines))
    lines[place] = dice.choice((lines[place].strip(), f"  {lines[place]}", f"\t{lines[place]}", f" {lines[place]}"))


def _insert(dice: random.Random, lines: list[str]) -> None:
    lines.insert(dice.randrange(len(lines) + 1), dice.choice(INSERTED))


def _anchor(dice: random.Random, lines: list[str]) -> None:
    """An anchor somewhere, its alias elsewhere."""
    for mark in ("&a", "*a"):
        place = dice.randrange(len(lines))
        head, colon, rest = lines[place].partition(":")
        lines[place] = f"{head}{colon} {mark}{rest if mark == '&a' else ''}"


def _bomb(dice: random.Random, lines: list[str]) -> None:
    """Aliases of aliases."""
    levels = dice.choice((3, 9, 25))
    lines += [f"b0: &b0 [{', '.join('x' * 9)}]"]
    lines += [f"b{level}: &b{level} [{', '.join([f'*b{level - 1}'] * 9)}]" for level in range(1, levels)]


INSERTED = (
    *("---", "...", "%YAML 1.1", "<<: *a", "? complex", "a: 1", "- x", "\0", "\x85", "\u2029", "\ufeff"),
    *("x: &x [*x]", "  b:", "}"),
    *("blocks:", "data: {}", "models: {}", "defaults:", "epochs: []", "exclude: [{}]", "resources: {gpus: 0}"),
    "settings: {}",
    *("name: ../../x", "name: -rf", "name: ''", "backend: none", "1: 2", "null: null", "[a, b]: c"),
    *("? {a: 1}\n: b", "'': ''"),
)  # fmt: skip
LINE_CHANGES = (
    *(
        _change_value,
        _change_value,
        _change_value,
        _change_inner,
        _change_inner,
        _change_inner,
        _swap_words,
        _double_line,
    ),
    *(_drop_line, _indent, _insert, _insert, _anchor, _bomb),
)
