"""Locks, processes and slots of this machine."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import NeverFitsError
from jobs.job import Resources
from jobs.local.cluster import Lease, Slots, machine_slots, visible_gpus
from jobs.local.runner_lock import current_holder, holding_runner_lock, observe_runner
from jobs.processes import (
    ATTEMPT_MARK,
    attempt_members,
    boot_id,
    own_start,
    process_stat,
    signal_attempt,
    supervisor_alive,
)
from jobs.store.flock import acquire, is_held
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store
from jobs.store.records import AttemptStart


def test_a_lock_has_one_holder_and_probing_does_not_take_it(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    assert not is_held(path)
    lock = acquire(path)
    assert lock is not None
    assert is_held(path)
    assert acquire(path) is None
    os.close(lock)
    assert not is_held(path)
    again = acquire(path, patience_seconds=0.05)
    assert again is not None
    os.close(again)


def test_an_inherited_lock_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = acquire(path)
    assert lock is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    os.close(lock)
    assert is_held(path)
    child.kill()
    child.wait()
    assert not is_held(path)


def start_of(pid: int, started: float, boot: str) -> AttemptStart:
    return AttemptStart(
        attempt="a",
        key="k",
        stage="s",
        backend="local",
        host="h",
        pid=pid,
        pid_started=started,
        boot_id=boot,
        started_at=0.0,
    )


def test_a_recycled_pid_is_not_the_attempts_own() -> None:
    assert supervisor_alive(start_of(os.getpid(), own_start(), boot_id()))
    assert not supervisor_alive(start_of(os.getpid(), own_start() - 1, boot_id()))
    assert not supervisor_alive(start_of(os.getpid(), own_start(), "before"))
    assert not supervisor_alive(start_of(2**22 + 1, 0.0, boot_id()))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = process_stat(child.pid)
    assert found is not None
    assert not found.alive
    child.wait()
    assert process_stat(child.pid) is None


def test_processes_of_an_attempt_are_found_by_their_mark(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"], env={ATTEMPT_MARK: str(tmp_path)})
    other = subprocess.Popen(["sleep", "60"], env={ATTEMPT_MARK: str(tmp_path / "other")})
    try:
        assert attempt_members(tmp_path) == [child.pid]
        signal_attempt(start_of(child.pid, 0.0, boot_id()), tmp_path, signal.SIGTERM)  # no supervisor any more
        assert child.wait(10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (child, other):
            process.kill()
            process.wait()


def test_slots_are_given_and_taken_back() -> None:
    slots = Slots(4, ("0", "1"))
    job = Resources(cpus=2, gpus_per_node=1)
    first, second = slots.take(job), slots.take(job)
    assert (first.devices, second.devices) == (("0",), ("1",))
    assert slots.lacking(job) == {"cpus", "gpus"}
    assert slots.lacking(Resources(cpus=1)) == {"cpus"}
    slots.give_back(first)
    assert slots.lacking(job) == set()
    assert slots.take(job) == Lease(2, ("0",))


def test_an_adopted_attempt_may_hold_more_than_there_is() -> None:
    slots = Slots(1, ("0",))
    adopted = Lease(4, ("0", "7"))
    slots.hold(adopted)
    assert slots.free_cpus == -3
    assert slots.lacking(Resources()) == {"cpus"}
    slots.give_back(adopted)
    assert slots.free_cpus == 1
    assert slots.free_devices == ["0"]


def test_what_can_never_be_had_is_said() -> None:
    slots = Slots(2)
    assert slots.misfit(Resources(cpus=2)) is None
    assert slots.misfit(Resources(cpus=2, nodes=2)) == "it needs 4 CPU cores and this runner has 2 (--cpus)"
    assert slots.misfit(Resources(gpus_per_node=1)) == "it needs 1 GPUs and this runner has 0 (--gpus)"


def test_visible_devices_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus() == ["3", "5"]
    assert machine_slots(1, 1).devices == ("3",)
    assert machine_slots(1, 0).devices == ()
    assert machine_slots().cpus == len(os.sched_getaffinity(0))
    with pytest.raises(NeverFitsError, match="--gpus 3: this machine shows 2 GPUs"):
        machine_slots(1, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_without_a_list_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert visible_gpus() == ["0", "1"]


def test_others_see_who_runs_and_what_is_queued(store: Store) -> None:
    ledger = Ledger(store.sweep("toy").ledger)
    assert current_holder(store) is None
    with holding_runner_lock(store, sweep="toy", writer=ledger.writer):
        ledger.append(Event(event=EventKind.INTENT, key=key) for key in ("a", "b"))
        ledger.append([Event(event=EventKind.STARTED, key="a")])
        holder = current_holder(store)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert set(observe_runner(store, "toy")) == {"b"}
        assert observe_runner(store, "other") == {}
    assert observe_runner(store, "toy") == {}
