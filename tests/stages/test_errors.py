"""What is the node's fault is told from the job's own, and from the engine's."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from stages.__main__ import classify_failure, record_failure
from stages.engines.engine import build_exit_error
from stages.errors import DataError, StageError, StorageError
from stages.files import convert_storage_errors
from tests.stages.training.training_case import make_world, text_config


def test_data_that_are_not_here_may_be_on_another_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_world(tmp_path).job("gone", "pretrain", text_config(2))
    (job.run / job.data["text"]).resolve().rename(tmp_path / "elsewhere")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    with pytest.raises(DataError, match="there is no") as here:
        job.resolve_data_path("text")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    with pytest.raises(DataError, match="there is no") as there:
        job.resolve_data_path("text")
    assert (here.value.failure_class, here.value.node_unsure) == ("data", False)
    assert (there.value.failure_class, there.value.node_unsure) == ("node_fault", True)
    with pytest.raises(DataError, match="is not in the job's data") as unknown:
        job.resolve_data_path("no such name")
    assert unknown.value.failure_class == "data"


@pytest.mark.parametrize(
    ("code", "kind", "unsure"),
    [
        (1, "code", False),
        (-signal.SIGKILL, "killed", False),
        (128 + signal.SIGKILL, "killed", False),
        (-signal.SIGBUS, "node_fault", True),
        (128 + signal.SIGBUS, "node_fault", True),
        (-signal.SIGSEGV, "code", False),
    ],
)
def test_how_a_program_ended_and_that_its_log_may_say_why(code: int, kind: str, unsure: bool) -> None:
    error = build_exit_error("the engine", code)
    assert (error.failure_class, error.node_unsure, error.cause_in_log) == (kind, unsure, True)


def test_a_read_only_home_folder_is_the_nodes_and_a_read_only_store_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose store refuses is sent again without end, and one that writes elsewhere would be too."""
    job = make_world(tmp_path).job("refused", "pretrain", text_config(2))
    for node, place, kind, unsure in (
        ("n1", "/home/me/.cache/x", "node_fault", True),
        ("n1", str(job.run / "metrics.jsonl"), "storage", False),
        ("n1", str(job.run.parent.parent.parent / "features" / "x"), "storage", False),
        ("", "/home/me/.cache/x", "storage", False),
    ):
        monkeypatch.setenv("SLURMD_NODENAME", node)
        if not node:
            monkeypatch.delenv("SLURMD_NODENAME")
        record_failure(job, OSError(errno.EROFS, "Read-only file system", place), "trace")
        written = json.loads(job.error.read_text())
        assert (written["class"], written["node_unsure"]) == (kind, unsure), place


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_what_this_user_may_not_use_is_no_error_of_the_program(tmp_path: Path, number: int) -> None:
    """An expired ticket closes a whole file server: what runs then is to go on once it is renewed."""
    refused = OSError(number, os.strerror(number), str(tmp_path / "shard.tar"))
    named = DataError("shard.tar: cannot be read")
    named.__cause__ = refused
    text = RuntimeError(f"cannot open (os error {int(number)})")
    assert [classify_failure(error) for error in (refused, named, text)] == ["storage"] * 3
    with pytest.raises(StorageError), convert_storage_errors(tmp_path / "x"):
        raise refused
    assert classify_failure(OSError(number, os.strerror(number))) == "code"  # no file: a signal, a socket, a priority


def test_a_message_that_quotes_a_long_text_keeps_its_beginning_and_its_end() -> None:
    message = str(StageError(f"shard.tar: {'x' * 70_000} is no name; write it again"))
    assert len(message) < 2_000
    assert message.startswith("shard.tar: xxx")
    assert message.endswith("xxx is no name; write it again")
    assert str(StageError("short")) == "short"
