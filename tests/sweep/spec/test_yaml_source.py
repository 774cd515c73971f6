"""What the YAML reader makes of plain values, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.errors import SweepFileError
from sweep.spec import yaml_source
from sweep.spec.yaml_source import parse_yaml


def parsed(text: str) -> Any:
    return parse_yaml(text, Path("x.yaml")).data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003),
        ("1.0e+9", 1e9),
        (".5", 0.5),
        ("-7", -7),
        ("1_000_000", 1_000_000),
        ("2024_05", "2024_05"),
        ("0o17", "0o17"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("'true'", "true"),
        ("~", None),
        ("2024-05-01", "2024-05-01"),
        ("12:30", "12:30"),
        ("1.4b", "1.4b"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        ("{a: [1, 'x']}", {"a": [1, "x"]}),
        ("{3: x, true: y}", {"3": "x", "true": "y"}),
        ("a: &a {b: 1}\nc: *a", {"a": {"b": 1}, "c": {"b": 1}}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    assert parsed(text) == value
    assert type(parsed(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {a: 1, a: 2}", "x.yaml:2: key 'a' stands here twice, first in line 2; keep one"),
        ("a: !!int x", "x.yaml:1: 'x' is not of the type that its tag names"),
        ("a: !!binary eA==", "x.yaml:1: tag '!!binary' is not allowed here; a sweep file holds plain values only"),
        ("a: !!set {b}", "x.yaml:1: tag '!!set' is not allowed here; a sweep file holds plain values only"),
        ("a:\n  - *b", "x.yaml:2: alias *b stands for itself or for nothing above it"),
        ("? [a]\n: b", "x.yaml:1: a key must be a plain word"),
        ("a: " + "9" * 5_000, "x.yaml:1: a number of 5000 characters is too long"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SweepFileError) as raised:
        parsed(text)
    assert str(raised.value) == message


def test_lines_are_those_of_the_values() -> None:
    source = parse_yaml("a:\n  - x\n  -\n    b.c: 1\nd: [1,\n  2]\n", Path("x.yaml"))
    assert source.find_line(("a", 0)) == 2
    assert source.find_line(("a", 1, "b", "c")) == 4  # a dotted key is found by its parts
    assert source.find_line(("d", 1)) == 6
    assert source.find_line(("d", 7)) == 5  # the nearest parent
    assert source.format_problem(("a", 1), "is wrong") == "x.yaml:4: a.1: is wrong"


def test_thirty_levels_are_enough_and_allowed() -> None:
    assert parsed("[" * 30 + "]" * 30) is not None
    with pytest.raises(SweepFileError, match="nested deeper than 30"):
        parsed("[" * 32 + "]" * 32)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
@pytest.mark.parametrize("level", ["[", "{é: ", "[\r\n", "- "])
def test_nesting_is_refused_by_our_limit_before_the_librarys(
    level: str, loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml_source, "Loader", loader)
    with pytest.raises(SweepFileError, match=r"^x\.yaml:\d+: is nested deeper than 30 levels$"):
        parsed(level * 5_000)
