"""Slots of this machine."""

import os
import stat
from pathlib import Path

import pytest

from jobs.errors import InfeasibleJobError
from jobs.job import Resources
from jobs.local.slots import Allocation, Slots, detect_machine_slots, query_visible_gpus


def test_slots_are_given_and_taken_back() -> None:
    slots = Slots(4, ("0", "1"))
    job = Resources(cpus=2, gpus_per_node=1)
    first, second = slots.allocate(job), slots.allocate(job)
    assert (first.devices, second.devices) == (("0",), ("1",))
    assert slots.find_shortages(job) == {"cpus", "gpus"}
    assert slots.find_shortages(Resources(cpus=1)) == {"cpus"}
    slots.release(first)
    assert slots.find_shortages(job) == set()
    assert slots.allocate(job) == Allocation(2, ("0",))


def test_an_adopted_attempt_may_hold_more_than_there_is() -> None:
    slots = Slots(1, ("0",))
    adopted = Allocation(4, ("0", "7"))
    slots.add_allocation(adopted)
    assert slots.find_shortages(Resources()) == {"cpus"}
    slots.release(adopted)
    assert slots.find_shortages(Resources(cpus=1)) == set()
    assert slots.find_shortages(Resources(cpus=2)) == {"cpus"}
    assert slots.free_devices == ["0"]


def test_what_can_never_be_had_is_said() -> None:
    slots = Slots(2)
    assert slots.find_infeasible_reason(Resources(cpus=2)) is None
    assert (
        slots.find_infeasible_reason(Resources(cpus=2, nodes=2))
        == "it needs 4 CPU cores and this runner has 2 (--cpus)"
    )
    assert slots.find_infeasible_reason(Resources(gpus_per_node=1)) == "it needs 1 GPU and this runner has 0 (--gpus)"


def test_visible_devices_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert query_visible_gpus() == ["3", "5"]
    assert detect_machine_slots(1, 1).devices == ("3",)
    assert detect_machine_slots(1, 0).devices == ()
    assert detect_machine_slots().cpus == len(os.sched_getaffinity(0))
    with pytest.raises(InfeasibleJobError, match="--gpus 3: this machine shows 2 GPUs"):
        detect_machine_slots(1, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert query_visible_gpus() == []


def test_without_a_list_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert query_visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: A (UUID: y)'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert query_visible_gpus() == ["0", "1"]
