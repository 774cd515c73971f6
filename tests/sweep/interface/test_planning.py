"""`sweep.plan`: a file or a mapping becomes the plan that the command makes."""

from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep
from jobs.store.paths import Store
from sweep.cli import main
from sweep.interface.planning import convert_mapping
from tests.sweep.small_sweep import SMALL, written


def small() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(SMALL.replace("3e-3", "3.0e-3").replace("2e-3", "2.0e-3"))
    return content


def test_a_file_and_the_same_as_a_mapping_give_the_commands_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    monkeypatch.chdir(tmp_path)
    by_file = sweep.plan(file, store=tmp_path / "one")
    by_mapping = sweep.plan(small(), store=tmp_path / "two")
    assert capsys.readouterr() == ("", "")
    assert main(["plan", str(file), "--store", str(tmp_path / "three")]) == 0
    stored = [Store(tmp_path / name).locate_sweep("small").manifest.read_bytes() for name in ("one", "two", "three")]
    assert stored[0] == stored[1] == stored[2]
    assert (len(by_file.cells), len(by_file.jobs), by_file.name) == (6, 32, "small")
    assert by_mapping.cells.axes == {"branch": [0, 50, 100], "image_share": [0, 0.2]}
    assert [cell.name for cell in by_mapping.cells.select(branch=50, image_share=0)] == ["mtiny-b50-i0-c0-x1"]
    assert by_file.cost["cpu_hours"] > 0
    assert len(by_file.problems) == 5  # no data are there: as the command tells
    assert "small: 6 cells, 32 jobs" in repr(by_file)
    assert by_file.open().plan.jobs == by_file.jobs
    # the stored copy of a mapping is a sweep file
    assert sweep.plan(Store(tmp_path / "two").locate_sweep("small").source, store=tmp_path / "four").is_stored


def test_a_plan_that_is_only_looked_at_is_not_stored(tmp_path: Path) -> None:
    plan = sweep.plan(written(tmp_path), store=tmp_path / "store", dry_run=True)
    assert not (tmp_path / "store").exists()
    with pytest.raises(sweep.PlanConflictError, match="only looked at"):
        plan.open()


def test_a_plan_that_stands_against_another_is_refused(tmp_path: Path) -> None:
    sweep.plan(written(tmp_path), store=tmp_path / "store")
    other = small() | {"models": {"other": {"d_model": 32, "layers": 1, "heads": 1, "vocabulary": 512}}}
    other["defaults"]["model"] = "other"
    other["defaults"]["trunk"]["seed"] = 9
    with pytest.raises(sweep.PlanConflictError, match="no cell and no job in common"):
        sweep.plan(other, store=tmp_path / "store")
    assert len(sweep.plan(other, store=tmp_path / "store", replace=True).jobs) == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": ["many"]}, "<mapping>:[0-9]+: epochs.0: 'many' is not a whole number"),
        ({"epoch": [1]}, "<mapping>:[0-9]+: epoch: is unknown"),
        ({"name": object()}, "<mapping>: name: .*object.* has no place in a sweep file"),
        ({"epochs": {1: 2}}, "<mapping>: epochs: the key 1 is not text"),
        ({"name": "no"}, None),
        ({"name": "true"}, None),
    ],
)
def test_a_wrong_mapping_is_told_by_its_place(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert sweep.plan(small() | change, store=tmp_path / "store").name == change["name"]
        return
    with pytest.raises(sweep.SweepFileError, match=message):
        sweep.plan(small() | change, store=tmp_path / "store")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12) | st.sampled_from(
    [
        "no",
        "yes",
        "null",
        "~",
        "",
        "1",
        "1e3",
        "3e-3",
        "0x10",
        "2001-01-01",
        "- a",
        "a: b",
        "#x",
        "true",
        ".inf",
        "*a",
        "&a",
    ]
)
SCALARS = TEXTS | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS, lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3), max_leaves=12
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS.filter(bool), VALUES, max_size=4))
def test_a_mapping_is_read_back_as_it_was_given(content: dict[str, Any]) -> None:
    assert convert_mapping(content).data == content


class Size(StrEnum):
    SMALL = "small"


def test_numbers_and_arrays_of_numpy_and_words_of_enumerations_are_taken_as_pythons() -> None:
    given = {
        "name": Size.SMALL,
        "epochs": np.arange(1, 3),
        "seeds": range(2),
        "blocks": [{"branch": np.float64(50.0), "share": np.float32(0.5), "seed": np.int64(7), "on": np.True_}],
    }
    assert convert_mapping(given).data == {
        "name": "small",
        "epochs": [1, 2],
        "seeds": [0, 1],
        "blocks": [{"branch": 50.0, "share": 0.5, "seed": 7, "on": True}],
    }
