"""What is installed from a wheel works without a checkout, and a source distribution holds all that git does."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from sweep.spec.shipped import list_shipped_names
from tests.stages.demo.small_demo import make_small_demo

ROOT = Path(__file__).parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = PYPROJECT["project"]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
ONE_CELL = """\
name: outside
backend: local
data:
  text: {kind: text, path: $STORE/data/demo/text}
  pictures: {kind: captions, path: $STORE/data/demo/captions, field: caption}
  questions: {kind: conversations, path: $STORE/data/demo/conversations}
  tokenizer: {kind: tokenizer, path: $STORE/data/demo/tokenizer.json}
  tasks: {kind: tasks, path: $STORE/data/demo/tasks}
models:
  tiny: {d_model: 32, layers: 1, heads: 2, vocabulary: 2048}
defaults:
  model: tiny
  encoder: patches-16-64
  pretrain:
    {unit_tokens: 10240, context: 128, batch_sequences: 16, restart_lr: 3e-3, restart_warmup_steps: 1, precision: fp32}
  finetune: {peak_lr: 1e-3, batch_sequences: 16, max_length: 128, precision: fp32}
  evaluate: {vision_tasks: [{name: shapes_val, limit: 8}], max_new_tokens: 2, precision: fp32}
blocks:
  - axes: {branch: [0], image_share: [0.5]}
epochs: [1]
"""


def run(*argv: str | Path, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """stdout of a program that must succeed."""
    done = subprocess.run(
        [str(each) for each in argv], cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_tracked_files() -> list[str]:
    """What git holds, by path; deleted and new files are as in the work tree."""
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    return sorted(name for name in names if name and ((ROOT / name).is_symlink() or (ROOT / name).exists()))


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy: setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in list_tracked_files():
        copy = folder / "tree" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy, follow_symlinks=False)
    run(sys.executable, "-c", BUILD, "build_sdist", folder, cwd=folder / "tree")
    [archive] = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def wheel(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the source distribution, as a package index would have it made."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["tar", "-xzf", source_distribution, "-C", folder], check=True)
    [sources] = folder.iterdir()
    run(sys.executable, "-c", BUILD, "build_wheel", folder, cwd=sources)
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment that has the wheel, and the packages that the tests have."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin" / "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    [packages] = (folder / "lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "of_the_tests.pth").write_text("\n".join(others) + "\n")
    return folder / "bin"


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, str]:
    """An environment that names no checkout."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    return {**kept, "HOME": str(tmp_path), "SWEEP_STORE": str(tmp_path / "store")}


def test_a_source_distribution_holds_what_git_holds(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert [name for name in list_tracked_files() if name not in held] == []


def test_a_wheel_has_the_packages_with_their_data_and_marks_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    package = {"sweep", "jobs", "stages"}
    wanted = {name for name in list_tracked_files() if name.partition("/")[0] in package} - {"sweep/manifests"}
    wanted |= {f"sweep/{name}" for name in list_tracked_files() if name.startswith("manifests/")}
    assert sorted(wanted - held) == []
    assert sorted(name for name in held if name.partition("/")[0] not in package | {wheel_record(wheel)}) == []
    assert {f"{name}/py.typed" for name in package} <= held


def wheel_record(wheel: Path) -> str:
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


def test_an_installed_wheel_plans_what_it_ships(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    assert run(installed / "sweep", "--version", cwd=tmp_path, environment=outside).strip() == version("sweep-vlm")
    report = json.loads(run(installed / "sweep", "plan", "paper", "--json", cwd=tmp_path, environment=outside))
    assert (report["cells"], report["jobs"]["total"]) == (300, 2710)
    where = "from sweep.spec import shipped; print(shipped.SHIPPED)"
    folder = run(installed / "python", "-c", where, cwd=tmp_path, environment=outside).strip()
    assert Path(folder).is_relative_to(installed.parent)
    assert sorted(path.stem for path in Path(folder).glob("*.yaml")) == list_shipped_names()


def test_an_installed_wheel_carries_a_sweep_out(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    make_small_demo(tmp_path / "store" / "data" / "demo")
    (tmp_path / "outside.yaml").write_text(ONE_CELL)
    run(installed / "sweep", "plan", "outside.yaml", cwd=tmp_path, environment=outside)
    lines = map(json.loads, (tmp_path / "store/sweeps/outside/manifest.jsonl").read_text().splitlines())
    [first] = [line["key"] for line in lines if line.get("stage") == "pretrain"]
    run(installed / "sweep", "submit", "outside", "--only", first, cwd=tmp_path, environment=outside)
    report = json.loads(run(installed / "sweep", "status", "outside", "--json", cwd=tmp_path, environment=outside))
    assert report["states"]["done"] == 1
    [job] = (tmp_path / "store" / "runs" / "pretrain").glob("*/job.json")
    assert json.loads(job.read_text())["code"]["revision"] == version("sweep-vlm")


def test_the_code_that_jobs_of_a_wheel_import_is_the_wheels(
    installed: Path, outside: dict[str, str], tmp_path: Path
) -> None:
    save = (
        "from pathlib import Path; from jobs.store.paths import Store\n"
        "from jobs.slurm.code_snapshot import save_code_snapshot\n"
        "saved = save_code_snapshot(Store(Path('store'))); print(saved.path, saved.revision)"
    )
    archive, revision = run(installed / "python", "-c", save, cwd=tmp_path, environment=outside).split()
    assert revision == version("sweep-vlm")
    of_git = {name for name in list_tracked_files() if name.startswith(("jobs/", "stages/"))}
    with zipfile.ZipFile(archive) as opened:
        assert set(opened.namelist()) >= of_git
    where = "import stages.config, jobs.attempt.__main__ as attempt; print(stages.config.__file__, attempt.__file__)"
    imported = run(installed / "python", "-c", where, cwd=tmp_path, environment={**outside, "PYTHONPATH": archive})
    assert all(path.startswith(f"{archive}/") for path in imported.split())


def test_every_version_is_bounded_on_both_sides() -> None:
    lists = [PYPROJECT["build-system"]["requires"], PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    open_ended = []
    for requirement in map(Requirement, chain.from_iterable(lists)):
        operators = {each.operator for each in requirement.specifier}
        if requirement.name != PROJECT["name"] and not (operators == {"=="} or {">=", "<"} <= operators):
            open_ended.append(str(requirement))
    assert open_ended == []


def test_the_package_says_what_it_is() -> None:
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(PROJECT["classifiers"])
    assert PROJECT["urls"]
    assert all(address.startswith("https://") for address in PROJECT["urls"].values())
