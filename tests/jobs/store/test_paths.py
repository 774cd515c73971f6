"""The store's promises: files whole or absent, names that cannot climb out."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.store.paths import Store, UnsafeNameError, check_safe_name, open_replacement, write_json
from tests.jobs import toy

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from jobs.store.paths import open_replacement
with open_replacement(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_is_as_before_if_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"whole": True})
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path)], cwd=toy.ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"whole": True}


def test_a_file_is_as_before_if_its_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record.json"
    write_json(path, 1)

    def fail() -> None:
        with open_replacement(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        fail()
    assert [name.name for name in path.parent.iterdir()] == ["record.json"]
    assert path.read_text() == "1\n"


def test_two_containers_may_write_a_file_at_once(tmp_path: Path) -> None:
    """Their processes may have the same number."""
    path = tmp_path / "record.json"
    with open_replacement(path) as one:
        one.write_text("1")
        with open_replacement(path) as other:
            other.write_text("2")
        assert path.read_text() == "2"
    assert path.read_text() == "1"
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    """The name changes hands in one step: the reader's open file stays the old one."""
    path = tmp_path / "record.json"
    write_json(path, "old")
    with path.open() as reader:
        write_json(path, "new")
        assert json.load(reader) == "old"
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert json.loads(path.read_text()) == "new"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/a", ".hidden", "-option", "a b", "a;b", "$(x)", "a\n", "a|b", "é", "a" * 121],
)
def test_a_name_with_a_path_or_shell_meaning_is_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError, match="is not a safe name"):
        check_safe_name(name)
    with pytest.raises(UnsafeNameError):
        Store(Path("store")).locate_sweep(name)
    with pytest.raises(UnsafeNameError):
        Store(Path("store")).locate_run("pretrain", name)
    with pytest.raises(UnsafeNameError):
        Store(Path("store")).locate_run("pretrain", "key").locate_attempt(name)


@pytest.mark.parametrize("name", ["demo", "m1.4b-b20-i10", "a+b=c_d", "0", "a" * 120])
def test_a_plain_name_is_accepted(name: str) -> None:
    assert check_safe_name(name) == name
