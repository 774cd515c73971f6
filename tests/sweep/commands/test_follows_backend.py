"""`sweep tick` and what Ctrl-C does, of a sweep that runs on this machine."""

import os
import signal
import time

import pytest

from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.toy_commands import PATIENCE_SECONDS, beside, sweep, wait_until_it_works

pytestmark = pytest.mark.usefixtures("counting_stages")


def test_a_round_of_a_local_sweep_has_nothing_to_send(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", cells=["x"])])
    assert sweep(store, "tick", "--no-results") == 0
    printed = capsys.readouterr()
    assert printed.out == "toy: 0 of 1 job done, 1 ready\n"
    assert "toy runs on this machine: a round for Slurm has nothing to do\nnext: `sweep submit toy" in printed.err


def test_a_round_says_why_it_does_not_know_what_became_of_a_job(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    job = toy.toy_job("a", fail="data")
    toy.plan(store, [job])
    assert sweep(store, "submit") == 1
    lock = toy.run_of(store, job).lock
    lock.unlink()
    lock.symlink_to(lock)  # a loop: cannot be opened by anyone
    capsys.readouterr()
    assert sweep(store, "tick", "--no-results") == 0
    printed = capsys.readouterr()
    assert printed.out == "toy: 0 of 1 job done, 1 unknown\n"
    assert f"sweep tick: {lock.parent} cannot be read: Too many levels of symbolic links\n" in printed.err


def test_after_a_cancellation_status_says_how_to_go_on(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    toy.plan(store, [toy.toy_job("a", cells=["x"]), toy.toy_job("b", "a", cells=["x"])])
    assert sweep(store, "cancel", "x") == 0
    assert "next: `sweep resume toy x" in capsys.readouterr().err
    assert sweep(store, "status") == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("nothing runs until `sweep resume toy`: 2 cancelled\n")
    assert printed.err.startswith("next: `sweep resume toy")


def test_an_interrupt_is_answered_at_once_and_nothing_is_lost(store: Store) -> None:
    job = toy.toy_job("a", steps=400, step_seconds=0.05)
    toy.plan(store, [job])
    with beside(store, "submit") as runner:
        wait_until_it_works(store, job)
        began = time.monotonic()
        os.kill(runner.pid, signal.SIGINT)
        assert runner.stderr is not None
        said = next(line for line in runner.stderr if line.strip())
        took = time.monotonic() - began
        assert said == "stopping: 1 running job saves and ends; Ctrl-C again kills it\n"
        assert took < 2  # 0.2 s on an idle machine: the signal's handler writes it
        _, rest = runner.communicate(timeout=PATIENCE_SECONDS)
    assert "next: `sweep submit toy" in rest
    assert runner.returncode == 128 + signal.SIGINT
    assert toy.states(store, [job])["a"] is JobState.INTERRUPTED
