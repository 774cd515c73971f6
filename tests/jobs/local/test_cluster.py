"""Slots of this machine."""

import os
import stat
from pathlib import Path

import pytest

from jobs.errors import NeverFitsError
from jobs.job import Resources
from jobs.local.cluster import Lease, Slots, machine_slots, visible_gpus


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
