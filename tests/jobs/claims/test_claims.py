"""Claims: numbered files of which the newest alone entitles to write."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.claims.claims import (
    Claim,
    ClaimOwner,
    create_claim,
    find_newest_claim,
    list_claims,
    measure_claim_age,
    read_claim,
    remove_old_claims,
)
from jobs.processes import read_boot_id


def claimed(folder: Path, holder: ClaimOwner | None = None, after: Claim | None = None) -> Claim:
    made = create_claim(folder, holder or ClaimOwner.from_this_process(attempt="slurm-1_0-r0-aaaaaa"), after=after)
    assert made is not None
    return made


def test_there_is_no_claim_before_the_first(tmp_path: Path) -> None:
    assert find_newest_claim(tmp_path / "claims") is None
    assert list_claims(tmp_path / "claims") == []


def test_a_claim_tells_its_holder(tmp_path: Path) -> None:
    holder = ClaimOwner.from_this_process(attempt="slurm-7_1-r2-abcdef", job_id="7_1", batch="sw-0-x-y", restart=2)
    first = claimed(tmp_path, holder)
    seen = find_newest_claim(tmp_path)
    assert seen is not None
    assert (seen.number, seen.owner, seen.released, seen.path) == (1, holder, False, first.path)
    assert holder.pid == os.getpid()
    assert not holder.process_is_gone


def test_of_two_who_saw_the_same_only_one_gets_the_next(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    assert create_claim(tmp_path, ClaimOwner.from_this_process(), after=None) is None
    with ThreadPoolExecutor(8) as crowd:
        made = list(crowd.map(lambda _: create_claim(tmp_path, ClaimOwner.from_this_process(), after=first), range(8)))
    assert [one.number for one in made if one] == [2]


def test_a_number_that_was_used_and_tidied_away_is_not_given_again(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    second = claimed(tmp_path, after=first)
    fourth = claimed(tmp_path, after=claimed(tmp_path, after=second))
    remove_old_claims(tmp_path, fourth)
    assert [one.number for one in list_claims(tmp_path)] == [3, 4]
    assert create_claim(tmp_path, ClaimOwner.from_this_process(), after=first) is None
    assert [one.number for one in list_claims(tmp_path)] == [3, 4]


def test_the_older_claim_knows_that_it_is_superseded_even_when_it_was_tidied_away(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    assert first.is_newest()
    second = claimed(tmp_path, after=first)
    assert not first.is_newest()
    assert second.is_newest()
    remove_old_claims(tmp_path, claimed(tmp_path, after=second))
    assert not first.is_newest()
    assert not first.send_heartbeat()
    first.release()
    assert not first.path.exists()


def test_a_claim_whose_folder_is_gone_is_not_the_newest(tmp_path: Path) -> None:
    first = claimed(tmp_path / "claims")
    first.path.unlink()
    assert not first.is_newest()
    first.path.parent.rmdir()
    assert not first.is_newest()


def test_release_changes_the_flag_and_nothing_else(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    size = first.path.stat().st_size
    first.release()
    seen = read_claim(first.path)
    assert seen is not None
    assert seen.released
    assert seen.owner == first.owner
    assert first.path.stat().st_size == size


@pytest.mark.parametrize("content", ["", "{", "[]", '{"released": true}'], ids=["empty", "torn", "list", "other"])
def test_a_claim_without_readable_content_is_held_by_nobody_knows_whom(tmp_path: Path, content: str) -> None:
    (tmp_path / "000001.json").write_text(content)
    seen = find_newest_claim(tmp_path)
    assert seen is not None
    assert (seen.owner, seen.released) == (ClaimOwner(), False)
    assert not seen.owner.process_is_gone


def test_an_attempt_name_that_is_a_path_is_not_believed(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    record = json.loads(first.path.read_text())
    first.path.write_text(json.dumps({**record, "attempt": "../../../etc"}))
    seen = read_claim(first.path)
    assert seen is not None
    assert seen.owner == ClaimOwner()


def test_ages_are_differences_between_times_of_the_file_system(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    assert 0 <= measure_claim_age(first) < 5
    os.utime(first.path, (first.heartbeat_at - 100, first.heartbeat_at - 100))
    old = read_claim(first.path)
    assert old is not None
    assert 100 <= measure_claim_age(old) < 105
    assert first.send_heartbeat()
    beaten = read_claim(first.path)
    assert beaten is not None
    assert measure_claim_age(beaten) < 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001.json"]


def test_a_process_of_this_machine_that_ended_is_known_to_be_gone() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert ClaimOwner(boot_id=read_boot_id(), pid=ended.pid, pid_started=1.0).process_is_gone
    assert not ClaimOwner(boot_id="another machine", pid=ended.pid, pid_started=1.0).process_is_gone


def test_a_claim_that_the_disk_refuses_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("jobs.claims.claims.os.fsync", refuse)
        with pytest.raises(OSError, match="No space left"):
            create_claim(tmp_path, ClaimOwner.from_this_process(), after=None)
    assert list(tmp_path.iterdir()) == []
    assert create_claim(tmp_path, ClaimOwner.from_this_process(), after=None)
