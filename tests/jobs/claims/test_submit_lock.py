import errno
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.claims import submit_lock
from jobs.claims.claims import Claim, ClaimOwner, create_claim, find_newest_claim
from jobs.claims.submit_lock import hold_submit_lock
from jobs.errors import SubmitterBusyError
from tests.jobs.fake_clock import FakeClock


@dataclass
class ClockThatReleases(FakeClock):
    """The other submitter is done after 20 s."""

    claim: Claim = field(kw_only=True)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if sum(self.slept) >= 20:
            self.claim.release()


def test_a_submitter_has_the_sweep_to_itself(tmp_path: Path) -> None:
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()
        with (
            pytest.raises(SubmitterBusyError, match=f"process {os.getpid()} on "),
            hold_submit_lock(tmp_path, wait_seconds=0),
        ):
            pass
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()


def test_a_heartbeat_that_the_store_refuses_once_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = create_claim(tmp_path, ClaimOwner.from_this_process(), after=None)
    assert mine is not None
    over, beats = threading.Event(), []

    def fail_at_first(_: Claim) -> bool:
        beats.append(time.monotonic())
        if len(beats) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        over.set()
        return True

    monkeypatch.setattr(submit_lock, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(Claim, "send_heartbeat", fail_at_first)
    submit_lock.send_heartbeats(mine, over)
    assert len(beats) == 2


def test_the_next_waits_for_the_one_before(tmp_path: Path) -> None:
    other = create_claim(tmp_path, ClaimOwner.from_this_process(), after=None)
    assert other
    clock = ClockThatReleases(claim=other)
    said: list[str] = []
    with hold_submit_lock(tmp_path, wait_seconds=30, clock=clock, report_wait=said.append) as still_mine:
        assert still_mine()
    assert sum(clock.slept) >= 20
    host = os.uname().nodename
    assert said == [f"waits up to 30 s for another submission from this store (process {os.getpid()} on {host})"]


def test_who_waits_longer_than_it_may_gives_up(tmp_path: Path) -> None:
    other = create_claim(tmp_path, ClaimOwner.from_this_process(), after=None)
    assert other
    clock = ClockThatReleases(claim=other)
    with pytest.raises(SubmitterBusyError), hold_submit_lock(tmp_path, wait_seconds=10, clock=clock):
        pass
    assert sum(clock.slept) == pytest.approx(10, abs=1)


def test_one_that_was_killed_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom jobs.claims.submit_lock import hold_submit_lock\n"
        "with hold_submit_lock(Path(sys.argv[1]), wait_seconds=0):\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert not find_newest_claim(tmp_path).released  # type: ignore[union-attr]
    with hold_submit_lock(tmp_path, wait_seconds=0) as still_mine:
        assert still_mine()


def test_a_silent_one_of_another_machine_is_replaced_and_notices(tmp_path: Path) -> None:
    other = create_claim(tmp_path, ClaimOwner(host="elsewhere", boot_id="other", pid=1), after=None)
    assert other
    with pytest.raises(SubmitterBusyError, match="elsewhere"), hold_submit_lock(tmp_path, wait_seconds=0):
        pass
    long_ago = time.time() - submit_lock.SILENT_SECONDS - 60
    os.utime(other.path, (long_ago, long_ago))
    clock = FakeClock()
    with hold_submit_lock(tmp_path, wait_seconds=60, clock=clock):
        assert not other.is_newest()
    assert sum(clock.slept) == pytest.approx(submit_lock.LEAST_SILENT_SECONDS, abs=1)


@dataclass
class ClockOfAnother(FakeClock):
    """Each ten seconds the other submitter renews its claim, by a clock that is three hours behind."""

    claim: Claim = field(kw_only=True)

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if sum(self.slept) % 10 < seconds:
            stamp = time.time() - 3 * 3600 + sum(self.slept)
            os.utime(self.claim.path, (stamp, stamp))


def test_one_that_lives_is_not_taken_for_gone_by_a_clock_that_is_hours_behind(tmp_path: Path) -> None:
    other = create_claim(tmp_path, ClaimOwner(host="elsewhere", boot_id="other", pid=1), after=None)
    assert other
    os.utime(other.path, (time.time() - 3 * 3600,) * 2)
    clock = ClockOfAnother(claim=other)
    with (
        pytest.raises(SubmitterBusyError, match="elsewhere"),
        hold_submit_lock(tmp_path, wait_seconds=300, clock=clock),
    ):
        pass
    assert other.is_newest()
