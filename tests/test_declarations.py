"""What is declared once: the classes of failure with what follows from them, and the exit codes."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from jobs.store.records import FailureClass
from stages.stop import STOPPED

ROOT = Path(__file__).parent.parent
FAILURES = ROOT / "jobs" / "reconcile" / "failures.py"
DISTINCT = {"out_of_memory", "wall_clock", "preempted", "node_fault", "diverged", "damaged_input"}
"""Classes whose value is no common word."""


def list_sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def find_second_declarations(source: str) -> Iterator[int]:
    """Lines that name a member of FailureClass, or hold a table or set of the members' values."""
    tree = ast.parse(source)
    imported = [name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
    aliases = {name.asname or name.name for name in imported if name.name == "FailureClass"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in FailureClass.__members__:
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if owner in {"FailureClass", *aliases}:
                yield node.lineno
        elif isinstance(node, ast.Dict | ast.Set):
            members = node.keys if isinstance(node, ast.Dict) else node.elts
            values = {each.value for each in members if isinstance(each, ast.Constant)}
            if len(values & DISTINCT) > 1:
                yield node.lineno


def test_what_follows_from_a_class_of_failure_stands_in_one_module() -> None:
    sources = [path for path in list_sources("jobs", "sweep", "benchmarks") if path != FAILURES]
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in sources for line in find_second_declarations(path.read_text())
    ]
    assert not found, "make it a field of `failures.POLICIES`, or a part of the classifier there"


@pytest.mark.parametrize(
    "source",
    [
        "from jobs.store.records import FailureClass\nLIMITS = {FailureClass.KILLED: 3}",
        "from jobs.store.records import FailureClass as F\nFINE = {F.PREEMPTED, F.WALL_CLOCK}",
        "from jobs.store import records\nbad = failure is records.FailureClass.STORAGE",
        "ADVICE = {'diverged': 'lower the rate', 'wall_clock': 'wait'}",
        "FINE = {'preempted', 'wall_clock'}",
    ],
)
def test_a_second_declaration_is_noticed(source: str) -> None:
    assert set(find_second_declarations(source)) == {source.count("\n") + 1}


def test_a_stage_names_only_classes_that_exist() -> None:
    named = {
        node.value.value
        for path in list_sources("stages")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id == "failure_class"
    }
    assert {"diverged", "data", "damaged_input", "code"} <= named <= {*FailureClass}


def test_stages_and_jobs_agree_on_the_exit_code_of_a_stage_that_saved() -> None:
    assert STOPPED == ExitCode.SAVED


def find_exit_code_literals(source: str) -> Iterator[int]:
    """Lines that hold one of the attempt's own exit codes as a number."""
    own = {code.value for code in ExitCode if code.value > 2}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in own:
            yield node.lineno


def test_exit_codes_are_named() -> None:
    sources = [path for path in list_sources("jobs") if path.name != "exit_codes.py"]
    found = [
        f"{path.relative_to(ROOT)}:{line}" for path in sources for line in find_exit_code_literals(path.read_text())
    ]
    assert not found, "use jobs.exit_codes.ExitCode"


def test_an_exit_code_ends_a_process_as_a_number() -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(ExitCode.TAKEN)
    assert (ended.value.code, f"{ExitCode.TAKEN}") == (76, "76")
