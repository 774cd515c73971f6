"""What a process knows of the others; those that are there in truth are in training/test_pretrain_ranks.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.__main__ import peer_is_gone
from stages.distributed import ALONE, World, compute_device, open_world, world_size
from stages.errors import ConfigError, OtherRankError
from stages.files import FencedError, create_json
from stages.job_file import Settings


def test_one_process_talks_to_nobody() -> None:
    world = World(torch.device("cpu"))
    assert (world.rank, world.size, world.first) == (0, 1, True)
    assert world.sum([1.5, 2.0]) == [1.5, 2.0]
    (numbers,) = ALONE.gather(np.array([3, 4]))
    assert numbers.tolist() == [3, 4]


@pytest.mark.parametrize(("given", "size"), [({}, 1), ({"WORLD_SIZE": "1"}, 1), ({"WORLD_SIZE": "8"}, 8)])
def test_the_launcher_says_how_many_there_are(given: dict[str, str], size: int) -> None:
    assert world_size(given) == size


@pytest.mark.parametrize("given", ["many", "0", "-2"])
def test_a_number_of_processes_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        world_size({"WORLD_SIZE": given})


def test_half_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK.*torchrun"), open_world(Settings()):
        pytest.fail("no world is expected")


def test_a_device_that_is_asked_for_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert compute_device("auto", 1) == compute_device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="process 3 of a node with 2 GPUs"):
        compute_device("auto", 2)


def test_that_a_peer_is_gone_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    in_a_thread = ValueError("the thread that reads ended")
    in_a_thread.__cause__ = torch.distributed.DistNetworkError("reset")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert peer_is_gone(closed)
    assert peer_is_gone(in_a_thread)
    assert peer_is_gone(OtherRankError("rank 1 could not build its part of a batch; its log says why"))
    assert not peer_is_gone(RuntimeError("shapes differ"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not peer_is_gone(closed)


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
