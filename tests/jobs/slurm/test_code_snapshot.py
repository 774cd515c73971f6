"""The code of a submission stays what it was, and runs from its archive."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.slurm.code_snapshot import CodeSnapshot, is_dirty, save_code_snapshot
from jobs.store.job_file import read_code_revision
from jobs.store.paths import Store
from tests.jobs import toy


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packages that can be edited."""
    for package in ("jobs", "stages"):
        shutil.copytree(
            toy.ROOT / package, tmp_path / "checkout" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "checkout"


def run_with(code: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python as the batch script starts it; the project is installed in this environment too, as an editable one."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def edit(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def test_the_same_content_is_stored_once_and_in_the_same_bytes(store: Store, checkout: Path) -> None:
    first = save_code_snapshot(store, checkout)
    content, changed_at = first.path.read_bytes(), first.path.stat().st_mtime_ns
    assert save_code_snapshot(store, checkout) == first
    assert first.path.stat().st_mtime_ns == changed_at
    first.path.unlink()
    os.utime(checkout / "jobs" / "job.py", (1e9, 1e9))
    assert save_code_snapshot(store, checkout).path.read_bytes() == content
    assert [path.name for path in store.code.iterdir()] == [f"{first.digest}.zip"]


def test_it_holds_sources_with_their_compiled_form_and_nothing_else(store: Store, checkout: Path) -> None:
    (checkout / "jobs" / "__pycache__").mkdir()
    for junk in ("__pycache__/job.cpython-311.pyc", ".job.py.swp", "job.py.orig", "notes.md", ".#job.py"):
        (checkout / "jobs" / junk).write_text("junk")
    names = zipfile.ZipFile(save_code_snapshot(store, checkout).path).namelist()
    sources = {name for name in names if name.endswith(".py")}
    assert {"jobs/attempt/__main__.py", "jobs/slurm/client.py", "stages/__main__.py", "stages/data/text.py"} <= sources
    markers = {"jobs/py.typed", "stages/py.typed"}
    assert set(names) - sources == {f"{name}c" for name in sources} | markers
    assert not any("#" in name or "__pycache__" in name for name in names)


def test_any_edit_gives_another_archive(store: Store, checkout: Path) -> None:
    first = save_code_snapshot(store, checkout)
    edit(checkout / "stages" / "stop.py", "# more\n")
    second = save_code_snapshot(store, checkout)
    (checkout / "stages" / "more.py").write_text("")
    third = save_code_snapshot(store, checkout)
    assert len({first.digest, second.digest, third.digest}) == 3


def test_a_job_runs_the_code_of_its_submission(store: Store, checkout: Path) -> None:
    pinned = save_code_snapshot(store, checkout)
    edit(checkout / "jobs" / "store" / "job_file.py", "\nraise RuntimeError('edited')\n")
    job = toy.toy_job("only")
    toy.plan(store, [job])
    place = ["--store", str(store.root), "--sweep", toy.SWEEP, "--key", "only", "--attempt", "a", "--backend", "slurm"]
    done = run_with(
        pinned.path, "-m", "jobs.attempt", *place, "--revision", "abc", "--", *toy.COUNTING_STAGE, cwd=checkout
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(toy.run_of(store, job).job.read_text())["code"]["revision"] == "abc"


def test_modules_come_compiled_out_of_the_archive_wherever_python_starts(store: Store, checkout: Path) -> None:
    pinned = save_code_snapshot(store, checkout)
    code = "import jobs.attempt as a, stages.files as b; print(a.__file__); print(b.__file__)"
    done = run_with(pinned.path, "-c", code, cwd=toy.ROOT)
    assert done.stdout.splitlines() == [f"{pinned.path}/jobs/attempt/__init__.pyc", f"{pinned.path}/stages/files.pyc"]


def test_a_traceback_shows_the_source_that_ran(store: Store, checkout: Path) -> None:
    edit(checkout / "jobs" / "errors.py", "\ndef fail() -> None:\n    raise RuntimeError('as it was')  # old words\n")
    pinned = save_code_snapshot(store, checkout)
    (checkout / "jobs" / "errors.py").write_text("")
    code = "import jobs.errors, traceback\ntry: jobs.errors.fail()\nexcept RuntimeError: traceback.print_exc()"
    done = run_with(pinned.path, "-c", code, cwd=checkout)
    assert f'File "{pinned.path}/jobs/errors.py", line ' in done.stderr
    assert "raise RuntimeError('as it was')  # old words" in done.stderr


def test_a_stage_runs_from_the_archive(store: Store, checkout: Path, tmp_path: Path) -> None:
    pinned = save_code_snapshot(store, checkout)
    (tmp_path / "job.json").write_text('{"key": "a", "stage": "pretrain", "config": {}, "paths": {}}')
    done = run_with(pinned.path, "-m", "stages", str(tmp_path / "job.json"), cwd=checkout)
    assert done.returncode == 1
    assert done.stderr.startswith("stages: ")


def git(folder: Path, *words: str) -> None:
    settings = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *settings, *words], cwd=folder, check=True, capture_output=True)


def test_the_revision_says_whether_the_commit_is_what_ran(
    store: Store, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert save_code_snapshot(store, checkout).revision == "0.1.0"
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    commit = save_code_snapshot(store, checkout).revision
    assert len(commit) == 40
    git(checkout, "worktree", "add", "-b", "other", str(checkout.parent / "other"))
    assert read_code_revision(checkout.parent / "other") == commit
    (checkout / "README.md").write_text("outside the packages")
    assert save_code_snapshot(store, checkout).revision == commit
    (checkout / "jobs" / "new.py").write_text("")
    dirty: CodeSnapshot = save_code_snapshot(store, checkout)
    assert dirty.revision == f"{commit}+dirty"
    monkeypatch.setenv("PATH", "/nowhere")
    assert is_dirty(checkout) is None
    assert save_code_snapshot(store, checkout).revision == f"{commit}+unchecked"


@pytest.mark.parametrize("damage", ["cut", "bit", "compiled", "foreign"])
def test_a_damaged_archive_is_written_anew(store: Store, checkout: Path, damage: str) -> None:
    """And each job compares the bytes that it is about to import with those of its submission."""
    first = save_code_snapshot(store, checkout)
    whole = first.path.read_bytes()
    assert first.sha256 == hashlib.sha256(whole).hexdigest()
    if damage == "cut":
        first.path.write_bytes(whole[:-100])
    elif damage == "bit":
        middle = len(whole) // 2
        first.path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif damage == "compiled":
        with zipfile.ZipFile(first.path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["jobs/job.pyc"] = members["jobs/clock.pyc"]
        with zipfile.ZipFile(first.path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with zipfile.ZipFile(first.path, "a") as archive:
            archive.writestr("jobs/extra.py", "")
    assert save_code_snapshot(store, checkout) == first
    assert first.path.read_bytes() == whole
