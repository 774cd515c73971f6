"""Does a file system do what the store relies on, and is it noticed where it does not?"""

import os
import time
from pathlib import Path

import pytest

from jobs.store import checks
from jobs.store.checks import Check, Severity
from tests.jobs.fake_clock import FakeClock


def found(root: Path, *, needed: int = 0, shared: bool = False) -> dict[str, Check]:
    return {check.name: check for check in checks.check_store(root, needed_bytes=needed, shared=shared)}


def test_an_ordinary_disk_does_it_all_and_nothing_stays_behind(tmp_path: Path) -> None:
    names = {"store", "renaming", "exclusive creation", "locking", "clock", "space"}
    told = found(tmp_path)
    assert told.keys() == names
    assert {check.severity for check in told.values()} == {Severity.OK}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there_yet_is_tried_above_and_not_made(tmp_path: Path) -> None:
    told = found(tmp_path / "new" / "store")
    assert "not there yet" in told["store"].text
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_given: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("jobs.store.checks.tempfile.mkdtemp", refuse)
    told = found(tmp_path)
    assert list(told) == ["store"]
    assert told["store"].severity is Severity.PROBLEM
    assert "permission denied" in told["store"].text


def test_more_to_keep_than_there_is_room_for_is_a_problem(tmp_path: Path) -> None:
    assert found(tmp_path, needed=2**80)["space"].severity is Severity.PROBLEM
    assert "the plan still keeps 1.0 GiB" in found(tmp_path, needed=2**30)["space"].text


def test_a_refusal_is_a_finding_and_not_an_error(tmp_path: Path) -> None:
    def renaming(_folder: Path) -> Check:
        raise OSError(37, "No locks available")

    told = checks.run_check(renaming, tmp_path)
    assert (told.name, told.severity) == ("renaming", Severity.PROBLEM)
    assert "gives no locks" in told.text


def test_a_disk_that_does_not_lock_or_exclude_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "acquire_lock", lambda path: os.open(path, os.O_RDWR | os.O_CREAT))
    assert checks.check_locking(tmp_path).severity is Severity.PROBLEM
    monkeypatch.setattr(checks, "create_exclusive_file", Path.touch)
    assert checks.check_exclusive_creation(tmp_path).severity is Severity.PROBLEM


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(0.0, "ok"), (10.0, "note"), (3_600.0, "problem"), (-3_600.0, "problem")]
)
def test_clocks_that_differ_are_reported(ahead: float, verdict: str, tmp_path: Path) -> None:
    told = checks.check_clock(tmp_path, FakeClock(time.time() + ahead))
    assert told.severity.value == verdict
    assert f"differ by {abs(ahead):.0f}." in told.text


def test_the_mount_that_holds_the_store_tells_its_kind(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\nbad\n")
    (tmp_path / "store").mkdir()
    assert checks.read_file_system_type(tmp_path / "store", mounts) == "nfs4"
    assert checks.read_file_system_type(Path("/"), mounts) == "ext4"
    assert checks.read_file_system_type(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize(("kind", "verdicts"), [("nfs4", ["ok"]), ("tmpfs", ["note"]), ("", [])])
def test_a_disk_of_one_machine_is_told_where_nodes_need_it(
    kind: str, verdicts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "read_file_system_type", lambda _folder: kind)
    assert [check.severity.value for check in checks.check_file_system(tmp_path)] == verdicts
    assert ("file system" in found(tmp_path, shared=True)) is bool(verdicts)
