"""A store that refuses: full, limited, read-only. A clear line, nothing corrupted, and submitting again recovers.

A file system of a few MiB needs root to mount; the limit on the size of a file (EFBIG) refuses real writes for anyone.
"""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.reconcile.state import JobState
from jobs.store.flock import is_held
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from jobs.store.results import check_result
from tests.jobs import toy

MAY_MOUNT = os.geteuid() == 0
KIB = 1_024


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def drive(store: Store, *, file_limit_bytes: int = 0) -> subprocess.CompletedProcess[str]:
    """A runner whose files, and whose attempts' files, may not grow beyond the limit."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit_bytes, file_limit_bytes))

    command = [sys.executable, "-m", "tests.jobs.local.drive", str(store.root), "--cpus", "1"]
    before = limit if file_limit_bytes else None
    return subprocess.run(
        command, cwd=toy.ROOT, capture_output=True, text=True, check=False, timeout=600, preexec_fn=before
    )


def assert_nothing_corrupted(store: Store, jobs: Sequence[Job]) -> None:
    """Every result that is there is whole, and nobody is left alive."""
    for job in jobs:
        run = toy.run_of(store, job)
        assert check_result(run, job.key).valid or not run.result.exists()
        assert not is_held(run.lock)


def undisturbed(tmp_path: Path, jobs: Sequence[Job]) -> dict[str, str]:
    other = Store(tmp_path / "undisturbed")
    toy.submit(other, jobs)
    return toy.results(other, jobs)


@pytest.mark.parametrize("how", ["full disk", "file limit"] if MAY_MOUNT else ["file limit"])
def test_a_store_without_room_stops_the_run_and_goes_on_once_there_is_room(tmp_path: Path, how: str) -> None:
    jobs = [
        toy.toy_job("small"),
        toy.toy_job("large", "small", steps=6, padding=400 * KIB),
        toy.toy_job("last", "large"),
    ]
    expected = undisturbed(tmp_path, jobs)
    if how == "file limit":
        store = Store(tmp_path / "store")
        toy.plan(store, jobs)
        refused = drive(store, file_limit_bytes=200 * KIB)
        check_refusal(store, jobs, refused, "may not grow")
        check_recovery(store, jobs, expected)
        return
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        store = Store(disk / "store")
        toy.plan(store, jobs)
        refused = drive(store)
        check_refusal(store, jobs, refused, "the disk is full")
        remount(disk, "size=16m")
        check_recovery(store, jobs, expected)


def check_refusal(store: Store, jobs: Sequence[Job], refused: subprocess.CompletedProcess[str], words: str) -> None:
    assert words in refused.stdout or "File too large" in refused.stdout, refused
    assert "Traceback" not in refused.stderr
    assert_nothing_corrupted(store, jobs)
    assert toy.states(store, jobs) == {"small": JobState.DONE, "large": JobState.INTERRUPTED, "last": JobState.WAITING}


def check_recovery(store: Store, jobs: Sequence[Job], expected: dict[str, str]) -> None:
    recovered = drive(store)
    assert recovered.returncode == 0, recovered.stderr
    toy.assert_nothing_lost_or_doubled(store, jobs, expected)
    assert toy.count(store, jobs[0], "begin") == 1


@contextmanager
def read_only_store(tmp_path: Path, jobs: Sequence[Job]) -> Iterator[Store]:
    """A planned store that takes no write: by its mount for root, by its mode for anyone else."""
    if MAY_MOUNT:
        with small_disk(tmp_path / "disk", "size=4m") as disk:
            store = Store(disk / "store")
            toy.plan(store, jobs)
            remount(disk, "ro")
            yield store
        return
    store = Store(tmp_path / "store")
    toy.plan(store, jobs)
    store.root.chmod(0o555)
    try:
        yield store
    finally:
        store.root.chmod(0o755)


def test_a_read_only_store_is_told_in_one_line_and_can_still_be_looked_at(tmp_path: Path) -> None:
    jobs = [toy.toy_job("a")]
    with read_only_store(tmp_path, jobs) as store:
        refused = drive(store)
        assert refused.returncode == 1
        assert refused.stderr.startswith("StoreRefusedError: ")
        assert "read-only" in refused.stderr or "permission denied" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert toy.states(store, jobs) == {"a": JobState.READY}


def test_a_stage_that_finds_no_room_stops_the_run_and_costs_the_job_no_budget(store: Store) -> None:
    jobs = [toy.toy_job("a", fail="full", fail_at=1, fail_times=3), toy.toy_job("b"), toy.toy_job("c", "b")]
    for _ in range(3):
        end = toy.submit(store, jobs, cpus=1)
        assert end.problem == "pretrain a: OSError: [Errno 28] No space left on device"
        seen = toy.picture(store, jobs)
        assert seen.statuses["a"].state is JobState.INTERRUPTED
        last = seen.runs["a"].last
        assert last is not None
        assert last.failure is FailureClass.STORAGE
    assert toy.submit(store, jobs).problem == ""
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}


def test_an_unreadable_run_folder_is_unknown_and_not_started(store: Store) -> None:
    job = toy.toy_job("a")
    toy.plan(store, [job])
    run = toy.run_of(store, job)
    run.root.mkdir(parents=True)
    run.lock.symlink_to(run.lock)  # a loop: cannot be opened by anyone
    toy.submit(store, [job])
    seen = toy.picture(store, [job])
    assert seen.statuses["a"].state is JobState.UNKNOWN
    assert "cannot be read" in seen.runs["a"].message
    assert not run.attempts.exists()
