"""The lock files hold what pyproject.toml asks for, for each Python that it names, and no place of one machine."""

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("lock-*.txt"))
ELSEWHERE = {"torch", "sweep-vlm"}
"""Installed before and after the lock file."""


def wanted(python: str) -> Iterator[Requirement]:
    """All that the package and its extras ask for on that Python."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in map(Requirement, chain.from_iterable(lists)):
        marker = requirement.marker
        if marker is None or marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"}):
            yield requirement


def locked(path: Path) -> dict[str, Version]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]  # a line of another kind fails here
    return {canonicalize_name(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("path", LOCKS, ids=[path.stem for path in LOCKS])
def test_a_lock_file_has_all_dependencies_within_their_bounds(path: Path) -> None:
    versions = locked(path)
    wrong = {
        str(requirement): str(versions.get(canonicalize_name(requirement.name), "not there"))
        for requirement in wanted(path.stem.removeprefix("lock-"))
        if requirement.name not in ELSEWHERE
        and not (
            (version := versions.get(canonicalize_name(requirement.name)))
            and requirement.specifier.contains(version, prereleases=True)
        )
    }
    assert wrong == {}, "run `make lock`"
    assert "setuptools" in versions, "packages that come as sources are built with it"


@pytest.mark.parametrize("path", LOCKS, ids=[path.stem for path in LOCKS])
def test_a_lock_file_names_no_torch_no_cuda_and_no_machine(path: Path) -> None:
    heavy = {"torch", "torchvision", "torchaudio", "triton"}
    assert [name for name in locked(path) if name in heavy or name.startswith(("nvidia-", "cuda-"))] == []
    assert re.findall(r"://|^-|@ ", path.read_text(), flags=re.MULTILINE) == []


def test_each_supported_python_has_a_lock_file() -> None:
    supported = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert [path.stem.removeprefix("lock-") for path in LOCKS] == supported
    makefile = (ROOT / "Makefile").read_text()
    assert f"PYTHONS := {' '.join(supported)}\n" in makefile
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in supported)


def test_torch_of_the_makefile_is_within_the_bounds() -> None:
    [torch] = [Requirement(text) for text in PROJECT["optional-dependencies"]["train"] if text.startswith("torch>")]
    found = re.search(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert found is not None
    assert torch.specifier.contains(found[1])
