"""When a stage counts as hung, with real processes; the limits are seconds here."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.attempt.hang import HangWatch
from jobs.local.slots import Slots
from jobs.reconcile.attempts import read_attempts
from jobs.reconcile.state import JobState
from jobs.store.paths import AttemptPaths, Store
from jobs.store.records import FailureClass
from tests.jobs import toy

STAGE = """
import faulthandler, json, pathlib, signal, sys, time
folder, limit = pathlib.Path(sys.argv[1]), float(sys.argv[2])
faulthandler.register(signal.SIGUSR1, open(folder / "stacks-0.txt", "w"), all_threads=True)
def wait_for_ever():
    while True: time.sleep(1)
(folder / "progress.json").write_text(json.dumps({"step": 7, "limit_seconds": limit, "every_seconds": 0.1}))
wait_for_ever()
"""


def begin(folder: Path, limit: float) -> tuple[HangWatch, "subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-S", "-c", STAGE, str(folder), str(limit)])
    watch = HangWatch(AttemptPaths(folder), child, child.kill, poll_seconds=0.1)
    watch.start()
    return watch, child


def test_a_stage_that_makes_no_step_is_ended_and_its_stacks_are_kept(tmp_path: Path) -> None:
    watch, child = begin(tmp_path, 0.5)
    assert child.wait(60) == -9
    watch.stop()
    assert "no step after step 7 for" in watch.reason
    assert f"the stacks of 1 processes are in {tmp_path}" in watch.reason
    assert "wait_for_ever" in (tmp_path / "stacks-0.txt").read_text()
    assert json.loads((tmp_path / "hang.json").read_text())["step"] == 7


@pytest.mark.parametrize("limit", [0, 3600])
def test_a_stage_without_a_limit_or_within_it_is_left_alone(tmp_path: Path, limit: float) -> None:
    watch, child = begin(tmp_path, limit)
    time.sleep(1.5)
    watch.stop()
    assert child.poll() is None
    child.kill()
    child.wait()
    assert watch.reason == ""
    assert not list(tmp_path.glob("stacks-*")) or (tmp_path / "stacks-0.txt").stat().st_size == 0


def test_time_that_the_supervisor_did_not_see_does_not_count(tmp_path: Path) -> None:
    """A job that was suspended wakes up beside its supervisor."""
    paths = AttemptPaths(tmp_path)
    child = subprocess.Popen(["true"])
    child.wait()
    watch = HangWatch(paths, child, lambda: None)
    paths.progress.write_text(json.dumps({"step": 1, "limit_seconds": 60}))
    assert not watch.is_over_limit(10)  # it is new
    assert not any(watch.is_over_limit(10) for _ in range(6))
    paths.progress.write_text(json.dumps({"step": 2, "limit_seconds": 60}))
    assert not watch.is_over_limit(1_000)
    assert watch.is_over_limit(61)
    paths.progress.unlink()
    assert not watch.is_over_limit(1_000)


@pytest.mark.parametrize("word", ["NaN", "Infinity", '"60"', "-1", "9" * 400, "[" * 100_000])
def test_a_limit_that_is_no_number_of_seconds_is_none(tmp_path: Path, word: str) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    watch = HangWatch(AttemptPaths(tmp_path), child, lambda: None)
    AttemptPaths(tmp_path).progress.write_text(f'{{"step": 1, "limit_seconds": {word}}}')
    assert not watch.is_over_limit(10)
    assert not watch.is_over_limit(1e12)


def test_a_store_that_fails_for_a_moment_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each second opening of progress.json is an I/O error, and so is the size of every file of stacks."""
    whole, opened = Path.read_bytes, [0]

    def fail_every_second_time(path: Path) -> bytes:
        opened[0] += path.name == "progress.json"
        if path.name == "progress.json" and opened[0] % 2 == 0 and opened[0] < 20:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", fail_every_second_time)
    watch, child = begin(tmp_path, 0.5)
    measure = Path.stat

    def fail_at_stacks(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.name == "stacks-0.txt":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return measure(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", fail_at_stacks)
    assert child.wait(60) == -9
    watch.stop()
    assert "no step after step 7 for" in watch.reason


def test_what_is_said_of_a_hang_is_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """jobs.store.records raises the error of a mount that failed between the look and the words."""
    paths = AttemptPaths(tmp_path)
    child = subprocess.Popen(["true"])
    child.wait()
    watch = HangWatch(paths, child, lambda: None)
    paths.progress.write_text(json.dumps({"step": 3, "limit_seconds": 60}))
    watch.is_over_limit(10)

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr("jobs.store.reading._read_once", fail)
    assert "no step after step 3" in watch._explain()


def test_a_hung_job_goes_on_from_its_checkpoint(store: Store) -> None:
    job = toy.toy_job("k", fail="hang", fail_at=2, fail_times=1)
    toy.submit(store, [job], slots=Slots(1))
    assert toy.states(store, [job]) == {"k": JobState.DONE}
    first, second = read_attempts(toy.run_of(store, job), live=False)
    assert (first.failure, second.failure) == (FailureClass.HUNG, None)
    assert first.end is not None
    assert "no step after step 2" in first.end.message
    assert toy.count(store, job, "step") == 3
