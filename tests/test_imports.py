"""Imports point one way, and the control plane starts without the heavy packages."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"sweep", "jobs", "stages", "tests", "benchmarks"}
TORCH_FREE_STAGES = {
    "stages",
    "stages.config",
    "stages.data.addresses",
    "stages.data.shards",
    "stages.errors",
    "stages.schedule",
    "stages.vision.specs",
    "stages.engines.kinds",
    "stages.engines.limits",
    "stages.evaluation.benchmarks.registry",
    "stages.flops",
    "stages.gpu_memory",
    "stages.plugins",
    "stages.precision",
    "stages.prepare.finds",
    "stages.printable",
    "stages.job_file",
}
HEAVY = {"torch", "pandas", "pyarrow", "matplotlib", "numpy", "webdataset", "tokenizers", "lm_eval", "pydantic", "rich"}


def imported_modules(package: str) -> Iterator[tuple[str, str]]:
    """(file, module) of every import in a package, also those inside functions."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((str(path.relative_to(ROOT)), alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                yield str(path.relative_to(ROOT)), node.module or ""


def part(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("jobs", {"jobs"}), ("stages", {"stages"}), ("sweep", {"sweep", "jobs", "stages"})],
)
def test_imports_point_one_way(package: str, allowed: set[str]) -> None:
    wrong = [(file, module) for file, module in imported_modules(package) if part(module) in OURS - allowed]
    assert wrong == []


def test_the_control_plane_knows_only_the_torch_free_part_of_stages() -> None:
    wrong = [
        (file, module)
        for file, module in imported_modules("sweep")
        if part(module) == "stages" and module not in TORCH_FREE_STAGES
    ]
    assert wrong == []


def test_no_file_of_the_control_plane_imports_torch() -> None:
    torch = [where for package in ("sweep", "jobs") for where in imported_modules(package) if part(where[1]) == "torch"]
    assert torch == []


def loaded_by(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter after `code`."""
    report = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(json.loads(printed.stdout.splitlines()[-1]))


def test_the_command_line_starts_without_heavy_packages() -> None:
    assert loaded_by("from sweep.cli import build_parser; build_parser()") & HEAVY == set()


def test_planning_sending_and_watching_load_no_table_and_no_figure(tmp_path: Path) -> None:
    """What reads or writes Parquet or draws (sweep/results, sweep/export/index.py) is for `results` and `export`."""
    options = ["--store", str(tmp_path)]
    lines = (
        ["plan", "manifests/demo.yaml", *options],
        ["submit", "demo", "--dry-run", "--ignore-data", *options],
        ["status", "demo", *options],
        ["explain", "m1m-b0-i0-c0-x1", *options],
    )
    code = f"from sweep.cli import main\ncodes = [main(line) for line in {lines}]\nassert codes == [0, 0, 0, 0], codes"
    assert loaded_by(code) & (HEAVY - {"pydantic", "rich"}) == set()


def test_watching_loads_no_configuration_of_stages(tmp_path: Path) -> None:
    """pydantic and the stages' configurations take longer to load than a status takes to read."""
    options = f"'--store', {str(tmp_path)!r}"
    loaded_by(f"from sweep.cli import main\nassert main(['plan', 'manifests/demo.yaml', {options}]) == 0")
    assert "pydantic" not in loaded_by(f"from sweep.cli import main\nassert main(['status', 'demo', {options}]) == 0")


@pytest.mark.parametrize("module", sorted(TORCH_FREE_STAGES))
def test_the_torch_free_stage_modules_load_no_torch(module: str) -> None:
    assert loaded_by(f"import {module}") & {"torch", "numpy"} == set()


def test_an_attempt_supervisor_starts_without_heavy_packages() -> None:
    assert loaded_by("import jobs.attempt.__main__") & HEAVY == set()


def programs_in_strings() -> Iterator[tuple[str, str, str]]:
    """(place, module, name) of what programs inside string literals import of ours; mypy does not see them."""
    for package in ("sweep", "jobs", "stages", "tests", "benchmarks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value):
                    continue
                try:
                    program = ast.parse(node.value.strip())
                except (SyntaxError, ValueError):
                    continue  # prose
                for each in ast.walk(program):
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    if isinstance(each, ast.ImportFrom) and part(each.module or "") in OURS:
                        yield from ((place, each.module or "", alias.name) for alias in each.names)
                    elif isinstance(each, ast.Import):
                        yield from ((place, alias.name, "") for alias in each.names if part(alias.name) in OURS)


def is_there(module: str, name: str) -> bool:
    try:
        found = import_module(module)
        return not name or hasattr(found, name) or bool(import_module(f"{module}.{name}"))
    except ImportError:
        return False


def test_programs_in_strings_import_what_is_there() -> None:
    """The page of docs/add-a-stage.md adds CountConfig in a copy, and only there."""
    found = list(programs_in_strings())
    assert len(found) > 20
    assert [each for each in found if each[2] != "CountConfig" and not is_there(*each[1:])] == []
