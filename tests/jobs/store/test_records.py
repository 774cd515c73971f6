"""What an attempt wrote of itself, as others read it."""

import json
from pathlib import Path

import pytest

from jobs.store.records import AttemptExit, AttemptStart, FailureClass, read_record

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
