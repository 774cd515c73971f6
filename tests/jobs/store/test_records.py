"""What an attempt wrote of itself, as others read it."""

import json
from pathlib import Path

import pytest

from jobs.claims.claims import ClaimOwner, read_claim
from jobs.store.ledger import is_withdrawn, read_events
from jobs.store.paths import RunPaths
from jobs.store.records import AttemptExit, AttemptStart, FailureClass, find_newest_checkpoint, read_record

START = {"attempt": "a", "key": "k", "stage": "s", "backend": "local", "host": "h", "pid": 1, "pid_started": 1.0}
START |= {"boot_id": "b", "started_at": 2.0}
EXIT = {"attempt": "a", "key": "k", "ended_at": 3.0, "returncode": 1, "failure": "code"}


def test_a_record_of_a_later_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(START | {"later": 1}))
    start = AttemptStart.read(path)
    assert start is not None
    assert (start.attempt, start.started_at) == ("a", 2.0)
    path.write_text(json.dumps(EXIT | {"later": 1, "failure": "melted"}))
    end = AttemptExit.read(path)
    assert end is not None
    assert end.failure is FailureClass.UNKNOWN


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"attempt": "a"}', '{"failure": ["code"]}', "[" * 100_000])
def test_what_is_no_record_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(content)
    assert AttemptStart.read(path) is None
    assert AttemptExit.read(path) is None


def test_a_record_nested_too_deep_is_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text('{"a":' * 100_000)
    assert read_record(path) is None


def test_a_checkpoint_whose_record_names_no_file_is_not_whole(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    (run.checkpoints / "step-3").mkdir(parents=True)
    (run.checkpoints / "step-3" / "record.json").write_text(json.dumps({"files": {"a\0b": {"bytes": 1}}}))
    assert find_newest_checkpoint(run).step == -1


ENDLESS = "9" * 400


@pytest.mark.parametrize("time", ["[" * 20_000, ENDLESS, "1e999x"])
def test_a_line_of_a_ledger_that_cannot_be_read_is_left_out(tmp_path: Path, time: str) -> None:
    good = '{"event": "cancelled", "key": "k", "time": 1.0}'
    bad = [
        '{"event": "resumed", "key": "k", "time": ' + time + "}",
        '{"batch": "b", "what": "withdrawn", "keys": ["k"], "time": ' + time + "}",
    ]
    (tmp_path / "w.jsonl").write_text("\n".join([good, *bad, ""]))
    assert [event.time for event in read_events(tmp_path)] == [1.0]
    assert not is_withdrawn(tmp_path, "b", "k")


@pytest.mark.parametrize("pid", ["1e999", "[" * 4_000])
def test_a_claim_that_cannot_be_read_has_no_owner(tmp_path: Path, pid: str) -> None:
    path = tmp_path / "000001.json"
    path.write_text('{"host": "h", "boot_id": "b", "pid": ' + pid + "}")
    claim = read_claim(path)
    assert claim is not None
    assert (claim.owner, claim.released) == (ClaimOwner(), False)
