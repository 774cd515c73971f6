import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.checkpoint.files import (
    CheckpointWriter,
    compute_file_digests,
    find_newest_checkpoint,
    read_checkpoint,
    read_result_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from stages.errors import DamagedInputError, StorageError
from stages.training.parallel import copy_to_host

WEIGHTS = {"a": torch.arange(1000.0), "b": torch.ones(3, 4)}


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, {"step": step, "note": "x"}, WEIGHTS, {"exp_avg.a": torch.zeros(1000)})


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert path.name == "step-00000007"
    found = find_newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 7
    assert found.state["note"] == "x"
    assert torch.equal(found.read_weights()["a"], WEIGHTS["a"])
    assert found.read_moments().keys() == {"exp_avg.a"}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_checkpoint_is_for_whom_the_umask_lets(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in path.iterdir()} == dict.fromkeys(
        ["model.safetensors", "optimizer.safetensors", "state.json", "record.json"], mode
    )


def test_a_record_states_size_and_sha256_of_every_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    files = json.loads((path / "record.json").read_text())["files"]
    assert files.keys() == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert all(files[name]["bytes"] == (path / name).stat().st_size for name in files)
    assert all(len(entry["sha256"]) == 64 for entry in files.values())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "record.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    found = find_newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1 if not (name == "record.json" and damage == "flipped") else found.step in {1, 2}


@pytest.mark.parametrize("name", ["state.json", "record.json"])
def test_a_record_nested_without_end_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    (path / name).write_bytes(b"[" * 100_000)
    record = {"files": compute_file_digests(path)}
    if name == "state.json":
        (path / "record.json").write_text(json.dumps(record))
    found = find_newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert read_checkpoint(path) is None
    (tmp_path / "result.json").write_bytes(b"[" * 100_000)
    with pytest.raises(DamagedInputError, match=r"no readable result\.json"):
        read_result_checkpoint(tmp_path)


def test_a_torn_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    (save(tmp_path, 2) / "model.safetensors").unlink()
    save(tmp_path, 2)
    assert read_checkpoint(tmp_path / "step-00000002") is not None


def test_only_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 100_000_000):
        save(tmp_path, step)
    (tmp_path / ".step-00000004.99.tmp").mkdir()
    remove_old_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-100000000"]


def test_checkpoints_of_branch_points_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    remove_old_checkpoints(tmp_path, keep=1, always=(2, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


def test_a_writer_writes_beside_and_tidies_up_behind(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, always=(1,))
    for step in (1, 2, 3):
        writer.wait()
        writer.begin({"step": step}, WEIGHTS, None, keep=1)
    writer.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]
    writer.close()


@pytest.mark.parametrize("how", ["check", "wait"])
def test_an_error_of_the_writer_comes_out_at_the_next_step(tmp_path: Path, how: str) -> None:
    (tmp_path / "checkpoints").write_text("a file, where a folder is needed")
    writer = CheckpointWriter(tmp_path / "checkpoints")
    writer.begin({"step": 1}, WEIGHTS, None, keep=1)
    writer.close()
    with pytest.raises(NotADirectoryError):
        getattr(writer, how)()


def test_a_host_copy_is_none_of_the_training_s_business(tmp_path: Path) -> None:
    weights = {"a": torch.ones(3)}
    copies = copy_to_host(weights, wanted=True)
    weights["a"].zero_()
    assert torch.equal(copies["a"], torch.ones(3))
    assert copy_to_host(weights, wanted=False) == {}


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert find_newest_checkpoint(tmp_path / "nothing") is None


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from stages.checkpoint.files import find_newest_checkpoint, save_checkpoint
from stages.errors import DamagedInputError, StorageError

folder = Path(sys.argv[1])
save_checkpoint(folder, {"step": 1}, {"a": torch.zeros(100)}, None)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(folder, {"step": 2}, {"a": torch.zeros(100_000)}, None)
except StorageError as error:
    print(error)
    print(find_newest_checkpoint(folder).step, [path.name for path in folder.iterdir()])
"""


def test_a_write_that_does_not_fit_leaves_the_earlier_checkpoint_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "step-00000002: cannot write: File too large" in done.stdout
    assert done.stdout.splitlines()[1] == "1 ['step-00000001']"


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.fail("this test needs /dev/full")
    from stages.training.metrics import MetricsLog

    with pytest.raises(StorageError, match="No space left on device"):
        MetricsLog(full).write({"step": 1})
    assert not list(tmp_path.iterdir())
