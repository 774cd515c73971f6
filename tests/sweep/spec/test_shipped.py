"""Shipped sweep files by name."""

import re
from pathlib import Path

import pytest

from sweep.cli import main
from sweep.errors import SweepFileError
from sweep.spec.shipped import SHIPPED, list_shipped_names, locate_sweep_file

ROOT = Path(__file__).parents[3]


def test_the_shipped_files_are_those_of_manifests() -> None:
    assert list_shipped_names() == sorted(path.stem for path in (ROOT / "manifests").glob("*.yaml"))


def test_a_name_means_the_shipped_file_where_no_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate_sweep_file(Path("paper")) == SHIPPED / "paper.yaml"
    Path("paper").write_text("name: mine\n")
    assert locate_sweep_file(Path("paper")) == Path("paper")
    Path("demo").mkdir()
    assert locate_sweep_file(Path("demo")) == SHIPPED / "demo.yaml"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("papr", "papr: neither a file nor a shipped sweep; is it paper? The shipped ones are 7b-pair, "),
        ("nothing", "nothing: neither a file nor a shipped sweep. The shipped ones are 7b-pair, "),
        ("manifests/paper.yaml", "there is no such file here; `sweep plan paper` plans the shipped one"),
    ],
)
def test_an_absent_file_is_told_with_what_is_shipped(
    given: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SweepFileError, match=re.escape(told)):
        locate_sweep_file(Path(given))


def test_an_absent_file_of_another_name_is_left_to_its_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path / "mine.yaml"), "--store", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("mine.yaml: cannot be read: No such file or directory\n")
