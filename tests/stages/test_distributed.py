"""What a process knows of the others; those that are there in truth are in training/test_pretrain_ranks.py."""

import errno
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.__main__ import classify_failure, is_lost_peer_error
from stages.distributed import (
    SINGLE_PROCESS,
    DistributedContext,
    open_distributed_context,
    read_world_size,
    select_device,
)
from stages.errors import ConfigError, DataError, MountError, NodeFaultError, OtherRankError, PortTakenError
from stages.files import FencedError, convert_storage_errors, create_json
from stages.job_file import Settings
from stages.stop import StopFlag


def test_one_process_talks_to_nobody() -> None:
    world = DistributedContext(torch.device("cpu"))
    assert (world.rank, world.size, world.is_first_rank) == (0, 1, True)
    assert world.all_reduce_sum([1.5, 2.0]) == [1.5, 2.0]
    (numbers,) = SINGLE_PROCESS.gather(np.array([3, 4]))
    assert numbers.tolist() == [3, 4]


@pytest.mark.parametrize(("device", "over_hosts"), [("cpu", True), ("meta", False)])
def test_numbers_on_a_device_are_summed_there_and_not_over_the_hosts(
    monkeypatch: pytest.MonkeyPatch, device: str, over_hosts: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda summed, group: asked.append(group))  # noqa: ARG005
    monkeypatch.setattr(torch.Tensor, "tolist", lambda _: [0.0])
    host: Any = object()
    DistributedContext(torch.device(device), host=host).all_reduce_sum(torch.zeros(1, device=device))
    assert asked == [host if over_hosts else None]


@pytest.mark.parametrize(("given", "size"), [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"WORLD_SIZE": "8"}, 8)])
def test_the_launcher_says_how_many_there_are(given: dict[str, str], size: int) -> None:
    assert read_world_size(given) == size


@pytest.mark.parametrize("given", ["many", "0", "-2"])
def test_a_number_of_processes_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        read_world_size({"WORLD_SIZE": given})


def test_half_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK.*torchrun"), open_distributed_context(Settings(), StopFlag()):
        pytest.fail("no world is expected")


def test_a_device_that_is_asked_for_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert select_device("auto", 1) == select_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(NodeFaultError, match="process 3 of a node with 2 GPUs"):
        select_device("auto", 2)


def test_a_missing_gpu_is_the_nodes_fault_unless_torch_could_use_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="built for CPUs"):
        select_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail_to_find_a_driver)
    with pytest.raises(NodeFaultError, match=r"finds no GPU on .*Found no NVIDIA driver"):
        select_device("cuda")
    assert NodeFaultError.failure_class == "node_fault"


def fail_to_find_a_driver() -> None:
    raise RuntimeError("Found no NVIDIA driver on your system.")


@pytest.mark.parametrize("text", ["unhandled cuda error, NCCL version 2.27", "Cuda failure 'invalid device ordinal'"])
def test_an_error_about_the_own_gpu_is_no_lost_peer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_lost_peer_error(torch.distributed.DistBackendError(f"NCCL error in: ProcessGroupNCCL.cpp: {text}"))
    assert is_lost_peer_error(torch.distributed.DistBackendError("NCCL error: remote process exited"))


def test_a_port_that_is_in_use_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        launcher = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": other.getsockname()[1]}
        for name, value in {**launcher, "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, str(value))
        with (
            pytest.raises(PortTakenError, match="in use by another program"),
            open_distributed_context(Settings(device="cpu", peer_timeout_minutes=0.1), StopFlag()),
        ):
            pytest.fail("no world is expected")


@pytest.mark.parametrize(("variables", "kind"), [({"SLURMD_NODENAME": "n1"}, "node_fault"), ({}, "storage")])
def test_a_mount_that_has_failed_is_the_nodes_fault_where_there_are_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], kind: str
) -> None:
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stale = OSError(errno.ESTALE, "Stale file handle", "/data/a.tar")
    read = DataError("data set 'text': a.tar cannot be read")
    read.__cause__ = stale
    assert [classify_failure(error) for error in (stale, read)] == [kind, kind]
    with pytest.raises(MountError, match="cannot write: Stale file handle"), convert_storage_errors(tmp_path):
        raise stale
    assert classify_failure(OSError(errno.ENOSPC, "No space left on device")) == "storage"


def test_that_a_peer_is_gone_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    in_a_thread = ValueError("the thread that reads ended")
    in_a_thread.__cause__ = torch.distributed.DistNetworkError("reset")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer_error(closed)
    assert is_lost_peer_error(in_a_thread)
    assert is_lost_peer_error(OtherRankError("rank 1 could not build its part of a batch; its log says why"))
    assert not is_lost_peer_error(RuntimeError("shapes differ"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_lost_peer_error(closed)


def test_a_file_that_one_of_several_creates_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_json(tmp_path / "a" / "error.json", {"first": 1})
    with pytest.raises(FileExistsError):
        create_json(tmp_path / "a" / "error.json", {"second": 1})
    assert json.loads((tmp_path / "a" / "error.json").read_text()) == {"first": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["error.json"]
    monkeypatch.setenv("SWEEP_FENCE", str(tmp_path / "claims" / "000001.json"))
    with pytest.raises(FencedError):
        create_json(tmp_path / "b" / "error.json", {})
    assert not list((tmp_path / "b").iterdir())
