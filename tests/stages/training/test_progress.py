"""What a training says of its progress, and that a real one which hangs is ended with its stacks kept."""

import faulthandler
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.attempt.hang import HangWatch
from jobs.store.paths import AttemptPaths
from stages.__main__ import keep_stacks
from stages.training.progress import MEDIANS, MIN_STEPS, STEP, ProgressReport
from tests.stages.training.training_case import make_world, result_of, start, text_config

HANGS = """
import sys, time
from stages.training.optimizer import AdamW
calls, update = [], AdamW.step
def wait_for_ever(): time.sleep(3600)
def step(self, rate):
    calls.append(rate)
    if len(calls) == 30: wait_for_ever()
    return update(self, rate)
AdamW.step = step
from stages.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_only_a_step_has_a_limit_and_only_once_the_usual_step_is_known() -> None:
    report = ProgressReport(None, 900.0)
    for step in range(1, MIN_STEPS + 1):
        report.note(step - 1, STEP)
        assert report.build_record()["limit_seconds"] == 0  # the first ones compile
        report.add_step(step, 40.0)
    for doing, limit in ((STEP, MEDIANS * 40), ("data", 0), ("start", 0), ("end", 0)):
        report.note(MIN_STEPS, doing)
        assert report.build_record()["limit_seconds"] == limit
    never = ProgressReport(None, 0.0)
    fast = ProgressReport(None, 900.0)
    for step in range(1, 100):
        never.add_step(step, 1.0)
        fast.add_step(step, 0.01)
    never.note(99, STEP)
    fast.note(99, STEP)
    assert (never.build_record()["limit_seconds"], fast.build_record()["limit_seconds"]) == (0, 900)


def test_a_file_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    report = ProgressReport(tmp_path / "no folder" / "progress.json", 0.1)
    report.start(3)
    time.sleep(0.2)
    report.stop()
    assert not list(tmp_path.iterdir())


def test_a_rank_that_keeps_no_stacks_outlives_the_signal_that_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor signals all ranks once one of them has its file."""
    job = make_world(tmp_path).job("deaf", "pretrain", text_config(1))
    monkeypatch.setenv("SWEEP_ATTEMPT", str(tmp_path))
    monkeypatch.setattr(faulthandler, "enable", lambda _: None)  # the tests' own stays
    before = signal.getsignal(signal.SIGUSR1)
    (job.error.parent / "stacks-0.txt").mkdir(parents=True)
    monkeypatch.delenv("RANK", raising=False)
    try:
        with keep_stacks(job):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_training_that_hangs_is_ended_and_one_that_works_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_world(tmp_path).job("hangs", "pretrain", text_config(60), hang_minutes=0.05, checkpoint_steps=10)
    attempt = AttemptPaths(job.error.parent)
    attempt.root.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("SWEEP_ATTEMPT", str(attempt.root))
    process = start(job, ("-c", HANGS))
    watch = HangWatch(attempt, process, process.kill, poll_seconds=0.2)
    watch.start()
    process.communicate(timeout=600)
    watch.stop()
    assert process.returncode == -9
    assert "no step after step 29" in watch.reason
    assert "wait_for_ever" in (attempt.root / "stacks-0.txt").read_text()
    again = start(job)
    watch = HangWatch(attempt, again, again.kill, poll_seconds=0.2)
    watch.start()
    _, errors = again.communicate(timeout=600)
    watch.stop()
    assert (again.returncode, watch.reason) == (0, ""), errors
    assert result_of(job)["steps"] == 60
    assert (read(attempt.progress)["doing"], read(attempt.progress)["limit_seconds"]) == ("end", 0)
