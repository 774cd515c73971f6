"""Blocks become points: products, exclusions, precedence, names."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.store.paths import check_safe_name
from sweep.errors import SweepFileError
from sweep.plan.grid import Point, expand_grid
from tests.sweep.small_sweep import SMALL, edited, loaded, planned

AXES: dict[str, list[Any]] = {
    "branch": [0, 10, 25, {"step": 37}, 50, 75, 100],
    "image_share": [0, 0.01, 0.25, 0.5, 1],
    "instruction_share": [0, 0.2, 1],
    "amount": [1, 2, 0.5],
    "freeze_encoder": [True, False],
    "seed": [1, 2, 3],
    "finetune.seed": [7, 365],
    "trunk.weight_decay": [0.01, 0.1],
}


@st.composite
def axes(draw: st.DrawFn) -> dict[str, list[Any]]:
    names = draw(st.lists(st.sampled_from(sorted(AXES.keys() - {"branch", "image_share"})), max_size=2, unique=True))
    return {
        name: draw(st.lists(st.sampled_from(AXES[name]), min_size=1, max_size=3, unique_by=repr))
        for name in ["branch", "image_share", *names]
    }


def text_of(chosen: dict[str, list[Any]], exclude: list[dict[str, Any]]) -> str:
    content = yaml.safe_load(SMALL)
    content["defaults"]["trunk"]["peak_lr"] = 0.003
    content["defaults"]["pretrain"]["restart_lr"] = 0.002
    return yaml.safe_dump({**content, "blocks": [{"axes": chosen}], "exclude": exclude}, sort_keys=False)


def shown(point: Point, name: str) -> Any:
    """A value as the sweep file gives it."""
    return point.build_axes_record((name,))[name]


property_settings = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@property_settings
@given(chosen=axes(), data=st.data())
def test_the_grid_is_the_product_without_the_exclusions(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, list[Any]], data: st.DataObject
) -> None:
    point = {name: data.draw(st.sampled_from(values)) for name, values in chosen.items()}
    names = data.draw(st.sets(st.sampled_from(sorted(point)), min_size=1))
    sizes = {name: len(values) for name, values in chosen.items()}
    gone = math.prod(size for name, size in sizes.items() if name not in names)
    folder = tmp_path_factory.mktemp("grid")
    text = text_of(chosen, [{name: point[name] for name in names}])
    if gone == math.prod(sizes.values()):
        with pytest.raises(SweepFileError, match="excludes every cell"):
            expand_grid(loaded(folder, text))
        return
    grid = expand_grid(loaded(folder, text))
    assert len(grid.points) == math.prod(sizes.values()) - gone
    assert len({each.name for each in grid.points}) == len(grid.points)
    assert all(check_safe_name(each.name) for each in grid.points)
    assert not any(all(shown(each, name) == point[name] for name in names) for each in grid.points)


@property_settings
@given(chosen=axes(), seed=st.integers())
def test_neither_keys_nor_names_depend_on_the_order_of_axes_and_values(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, list[Any]], seed: int
) -> None:
    shuffled = list(chosen.items())
    random.Random(seed).shuffle(shuffled)
    other = {name: random.Random(seed).sample(values, len(values)) for name, values in shuffled}
    folder = tmp_path_factory.mktemp("order")
    first, second = planned(folder, text_of(chosen, [])), planned(folder, text_of(other, []))
    assert {cell.name: cell.chains for cell in first.cells} == {cell.name: cell.chains for cell in second.cells}
    assert {job.key for job in first.jobs} == {job.key for job in second.jobs}


@property_settings
@given(chosen=axes())
def test_parents_stand_before_children_and_every_job_serves_a_cell(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, list[Any]]
) -> None:
    manifest = planned(tmp_path_factory.mktemp("parents"), text_of(chosen, []))
    seen: set[str] = set()
    parents: set[str] = set()
    for job in manifest.jobs:
        assert seen.issuperset(job.parents)
        assert job.key not in seen
        seen.add(job.key)
        parents.update(job.parents)
    assert all(job.cells or job.key in parents for job in manifest.jobs)
    names = {cell.name for cell in manifest.cells}
    assert {name for job in manifest.jobs for name in job.cells} == names


def values_of(folder: Path, text: str, name: str) -> set[Any]:
    return {point.values[name] for point in expand_grid(loaded(folder, text)).points}


def test_later_layers_go_over_earlier_ones(tmp_path: Path) -> None:
    name = "trunk.weight_decay"
    base = edited(("{d_model: 64,", "{like: 79m, d_model: 64,"))
    assert values_of(tmp_path, edited(("{d_model", "{like: 1.4b, d_model")), name) == {0.01}  # the catalog's
    default = edited(("unit_tokens: 51200", "unit_tokens: 51200, weight_decay: 0.2"), text=base)
    assert values_of(tmp_path, default, name) == {0.2}
    model = edited(("vocabulary: 512", "vocabulary: 512, trunk.weight_decay: 0.3"), text=default)
    assert values_of(tmp_path, model, name) == {0.3}
    block = edited(("epochs:", "    set: {trunk: {weight_decay: 0.4}}\nepochs:"), text=model)
    assert values_of(tmp_path, block, name) == {0.4}
    axis = edited(("epochs:", "      trunk.weight_decay: [0.5, 0.6]\nepochs:"), text=model)
    assert values_of(tmp_path, axis, name) == {0.5, 0.6}


def test_a_model_inherits_along_its_chain(tmp_path: Path) -> None:
    text = edited(
        ("  tiny:\n", "  big: {like: tiny, layers: 3, trunk.seed: 5}\n  bigger: {like: big, heads: 4}\n  tiny:\n"),
        ("model: tiny", "model: bigger"),
    )
    sweep = loaded(tmp_path, text)
    shape = sweep.models["bigger"].shape
    assert (shape.d_model, shape.layers, shape.heads, shape.vocabulary) == (64, 3, 4, 512)
    assert values_of(tmp_path, text, "trunk.seed") == {5}


def test_a_catalog_model_can_be_changed_under_its_own_name(tmp_path: Path) -> None:
    text = edited(("  tiny:\n    {d_model: 64,", "  79m:\n    {d_model: 64,"), ("model: tiny", "model: 79m"))
    model = loaded(tmp_path, text).models["79m"]
    assert (model.shape.layers, model.shape.d_model) == (2, 64)
    assert model.catalog_name == ""  # another shape has another speed


def names_of(folder: Path, text: str) -> list[str]:
    return [point.name for point in expand_grid(loaded(folder, text)).points]


def test_a_name_says_the_five_axes_of_the_paper_and_what_is_unusual(tmp_path: Path) -> None:
    assert names_of(tmp_path, SMALL)[1] == "mtiny-b0-i20-c0-x1"
    unusual = edited(
        ("branch: [0, 50, 100]", "branch: [12.5]"),
        ("epochs:", "      freeze_encoder: [false]\n      seed: [3]\n      finetune.peak_lr: [1e-5]\nepochs:"),
    )
    assert names_of(tmp_path, unusual)[1] == "mtiny-b12.5-i20-c0-x1-trained-s3-finetune.peak_lr=1e-05"


def test_an_axis_that_is_added_with_the_present_value_renames_nothing(tmp_path: Path) -> None:
    before = names_of(tmp_path, SMALL)
    after = names_of(tmp_path, edited(("epochs:", "      finetune.seed: [7, 365]\nepochs:")))
    assert set(before) < set(after)
    assert len(after) == 2 * len(before)


def test_a_name_that_would_be_too_long_is_cut_and_stays_unique(tmp_path: Path) -> None:
    settings_ = [f"{phase}.{name}" for phase in ("trunk", "pretrain") for name in ("beta1", "beta2", "weight_decay")]
    axes_text = "".join(f"      {name}: [0.123, 0.456]\n" for name in settings_)
    names = names_of(tmp_path, edited(("epochs:", f"{axes_text}epochs:")))
    assert len(set(names)) == len(names) == 6 * 2**6
    assert max(map(len, names)) <= 100
    assert all(map(check_safe_name, names))


def test_an_exclusion_without_effect_is_remarked(tmp_path: Path) -> None:
    grid = expand_grid(loaded(tmp_path, SMALL + "exclude:\n  - {branch: 50}\n  - {branch: 60}\n"))
    assert len(grid.points) == 4
    assert grid.remarks == (f"{tmp_path}/sweep.yaml:26: exclude.1: excludes no cell",)
