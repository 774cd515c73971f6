"""When a stage counts as hung, with real processes; the limits are seconds here."""

import json
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


def test_a_hung_job_goes_on_from_its_checkpoint(store: Store) -> None:
    job = toy.toy_job("k", fail="hang", fail_at=2, fail_times=1)
    toy.submit(store, [job], slots=Slots(1))
    assert toy.states(store, [job]) == {"k": JobState.DONE}
    first, second = read_attempts(toy.run_of(store, job), live=False)
    assert (first.failure, second.failure) == (FailureClass.HUNG, None)
    assert first.end is not None
    assert "no step after step 2" in first.end.message
    assert toy.count(store, job, "step") == 3
