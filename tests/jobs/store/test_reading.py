"""Files that another machine replaces while they are read. That a mount answers so: tests/nfs/test_client.py."""

import errno
import os
from pathlib import Path

import pytest

from jobs.claims.claims import ClaimOwner, create_claim, find_newest_claim
from jobs.errors import describe_storage_error
from jobs.store import reading
from jobs.store.reading import STALE_PAUSES, name_file, read_anew, read_file
from jobs.store.records import read_record


def fail_times(number: int, code: int, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """The first calls of a function of `os` or `jobs.store.reading` end with an error of this code."""
    owner, name = (reading, "_read_once") if target == "read_once" else (os, target)
    action, left = getattr(owner, name), [number]

    def act(*arguments: object, **options: object) -> object:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(code, "fails")
        return action(*arguments, **options)

    monkeypatch.setattr(owner, name, act)


@pytest.mark.parametrize("times", [1, len(STALE_PAUSES)])
def test_a_file_that_is_replaced_while_it_is_read_is_read_anew(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('{"number": 1}')
    fail_times(times, errno.ESTALE, monkeypatch, "read_once")
    assert read_record(tmp_path / "a.json") == {"number": 1}


def test_a_server_that_stays_away_and_other_errors_are_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent")
    fail_times(100, errno.ESTALE, monkeypatch, "read_once")
    with pytest.raises(OSError, match="fails") as raised:
        read_file(tmp_path / "a")
    assert raised.value.errno == errno.ESTALE


def test_an_error_of_another_kind_is_not_tried_again() -> None:
    calls: list[int] = []

    def read() -> None:
        calls.append(1)
        raise OSError(errno.EIO, "fails")

    with pytest.raises(OSError, match="fails"):
        read_anew(read)
    assert len(calls) == 1


@pytest.mark.parametrize("call", ["listdir", "read"])
def test_claims_are_read_anew_too(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_claim(tmp_path, ClaimOwner.from_this_process(attempt="a"), after=None)
    assert made is not None
    fail_times(1, errno.ESTALE, monkeypatch, call)
    found = find_newest_claim(tmp_path)
    assert found is not None
    assert found.owner.attempt == "a"


def test_an_error_that_has_words_alone_keeps_them_beside_its_file() -> None:
    assert str(name_file(OSError("error closing it"), "a/b")) == "[Errno 0] error closing it: 'a/b'"
    assert describe_storage_error(name_file(OSError("error closing it"), "a/b")) == "a/b: error closing it"
