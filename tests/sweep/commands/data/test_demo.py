"""`sweep data demo`: a thin command over `python -m stages.demo`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.demo.small_demo import make_small_demo


def sweep_data(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small_demo(tmp_path: Path) -> Path:
    return make_small_demo(tmp_path / "data")


def test_it_prints_the_folder_of_a_complete_data_set(small_demo: Path) -> None:
    done = sweep_data("demo", "--out", str(small_demo))
    assert (done.returncode, done.stdout) == (0, f"{small_demo}\n")
    assert "is there already" in done.stderr


def test_a_folder_with_other_things_in_it_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data" / "demo").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "notes.txt").write_text("mine")
    refused = sweep_data("demo", "--store", str(tmp_path))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "not a demo data set and not empty" in refused.stderr


def test_an_unknown_data_set_is_wrong_usage() -> None:
    wrong = sweep_data("imagenet")
    assert wrong.returncode == 2
    assert "imagenet" in wrong.stderr
