"""Whatever a sweep file holds, the reader plans it or tells its lines; it never breaks down."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.errors import SweepFileError
from sweep.spec.settings import BASE
from sweep.spec.yaml_source import parse_yaml
from tests.sweep.small_sweep import ROOT, SMALL, planned

WORDS = st.sampled_from(
    ["", "x", "tiny", "79m", "words", "../x", "$STORE/x", "nan", "matched", "patches-16-64", "1e3", "é", "a b", "\n"]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 200), st.floats(), WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(WORDS, st.sampled_from(sorted(BASE)), st.just("trunk")), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(content: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a nested value."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [where, *(place for key, part in parts for place in places(part, (*where, key)))]


def replaced(content: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    copy = content.copy()
    copy[where[0]] = replaced(content[where[0]], where[1:], value)
    return copy


CONTENT = parse_yaml(SMALL, Path("small.yaml")).data
PLACES = [place for place in places(CONTENT) if place]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=VALUES, key=st.sampled_from(["", *sorted(BASE)]))
def test_any_value_anywhere_is_planned_or_told(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any, key: str
) -> None:
    text = yaml.safe_dump(replaced(CONTENT, place, {key: value} if key else value), sort_keys=False)
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    try:
        planned(folder, text)
    except SweepFileError as error:
        told(error, folder)


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, len(SMALL) - 1), length=st.integers(0, 12), put=st.text(max_size=6))
def test_any_damage_to_the_text_is_planned_or_told(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, put: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    text = SMALL[:start] + put.encode(errors="replace").decode() + SMALL[start + length :]
    try:
        planned(folder, text)
    except SweepFileError as error:
        told(error, folder)


def told(error: SweepFileError, folder: Path) -> None:
    for line in error.problems:
        assert line.startswith((f"{folder}/sweep.yaml:", "... and ")), line
        assert "\n" not in line


def test_the_undamaged_file_is_planned(tmp_path: Path) -> None:
    assert len(planned(tmp_path, yaml.safe_dump(CONTENT)).jobs) == 32


def test_every_setting_stands_in_the_documentation() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in BASE if f"| `{name}` |" not in text] == []
