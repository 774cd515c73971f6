"""The phases stand in one table, a stage's settings on its configuration: a second declaration fails here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.config import STAGES
from sweep.phases import PHASES
from sweep.spec.fields import STAGE_SETTINGS, PointFields, list_stage_settings
from sweep.spec.reader import find_model_class
from sweep.spec.settings import BASE

ROOT = Path(__file__).parent.parent.parent
STAGE_TABLE = "stages/config.py"
NAMES = {name for settings in STAGE_SETTINGS.values() for name in settings}


def iter_nodes(*folders: str) -> Iterator[tuple[str, ast.AST]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                yield str(path.relative_to(ROOT)), node


def list_words(node: ast.AST) -> set[object]:
    """The words of a literal tuple, list or set, or the keys of a literal mapping."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else []
    parts = node.keys if isinstance(node, ast.Dict) else parts  # type: ignore[assignment]  # None for `**mapping`
    return {part.value for part in parts if isinstance(part, ast.Constant)}


def find_lists(folder: str, names: set[str], number: int) -> list[str]:
    """Where so many of the names stand in one literal."""
    return [
        f"{file}:{getattr(node, 'lineno', 0)}"
        for file, node in iter_nodes(folder)
        if len(list_words(node) & names) >= number
    ]


def test_no_second_list_of_the_phases() -> None:
    assert find_lists("sweep", set(PHASES), 3) == []


def test_no_second_list_of_the_stages() -> None:
    found = find_lists("stages", set(STAGES), 2)
    assert [place.partition(":")[0] for place in found] == [STAGE_TABLE]


def test_a_second_list_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "report.py").write_text('MEANING = {"trunk": 1, "finetune": 2, "evaluate": 3}\n')
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert find_lists("sweep", set(PHASES), 3) == ["sweep/report.py:1"]


def test_no_class_of_a_sweep_file_declares_a_setting_of_a_stage() -> None:
    second = [
        (file, node.name, part.target.id)
        for file, node in iter_nodes("sweep/spec", "sweep/plan")
        if isinstance(node, ast.ClassDef) and not file.endswith("_report.py")  # rows of reports say what a job has
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id in NAMES
    ]
    # the axis of the image-text run's seed, which is no setting of a phase
    assert second == [("sweep/spec/fields.py", "AxisFields", "seed")]


def test_the_planner_passes_settings_of_stages_on_without_naming_them() -> None:
    named = [
        (file, node.arg)
        for file, node in iter_nodes("sweep/plan")
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Subscript) and node.arg in NAMES
        if isinstance(node.value.slice, ast.Constant) and str(node.value.slice.value).endswith(f".{node.arg}")
    ]
    assert named == []


def test_a_setting_that_only_the_stage_knows_stands_in_no_file_of_the_control_plane() -> None:
    assert [
        file for file, node in iter_nodes("sweep") if isinstance(node, ast.Constant) and node.value == "z_loss"
    ] == []
    assert "trunk.z_loss" in BASE


def test_every_setting_of_a_phase_has_a_default() -> None:
    sections = {name: find_model_class(PointFields, (name,)) for name in PHASES}
    given = {f"{name}.{field}" for name, section in sections.items() if section for field in section.model_fields}
    assert given == {name for name in BASE if "." in name}


@pytest.mark.parametrize("name", PHASES)
def test_what_a_phase_leaves_out_is_a_setting_of_its_stage(name: str) -> None:
    phase = PHASES[name]
    assert phase.without <= {setting.name for setting in list_stage_settings(phase.config)}
