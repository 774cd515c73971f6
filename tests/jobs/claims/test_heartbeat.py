import os
import time
from pathlib import Path

import pytest

from jobs.claims.claims import Claim
from jobs.claims.heartbeat import ClaimLostError, Heartbeat
from jobs.clock import SYSTEM_CLOCK, Clock
from tests.jobs.claims.test_claims import claimed
from tests.jobs.fake_clock import FakeClock


def guard_of(one: Claim, takeover_seconds: float = 3.0, clock: Clock = SYSTEM_CLOCK) -> Heartbeat:
    guard = Heartbeat(one, takeover_seconds / 15, takeover_seconds, clock=clock)
    guard.start()
    return guard


def test_a_guard_beats_until_a_newer_claim_comes_and_never_after(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    os.utime(first.path, (1.0, 1.0))
    called: list[str] = []
    guard = guard_of(first)
    guard.register_loss_callback(lambda: called.append("lost"))
    wait_until(lambda: first.path.stat().st_mtime > 1.0)
    assert not guard.lost
    guard.check()
    claimed(tmp_path, after=first)
    wait_until(lambda: guard.lost)
    os.utime(first.path, (1.0, 1.0))
    time.sleep(0.5)
    assert first.path.stat().st_mtime == 1.0
    assert called == ["lost"]
    with pytest.raises(ClaimLostError):
        guard.check()


def test_who_asks_after_the_loss_is_told_at_once(tmp_path: Path) -> None:
    first = claimed(tmp_path)
    guard = guard_of(first, takeover_seconds=600)
    claimed(tmp_path, after=first)
    with pytest.raises(ClaimLostError):
        guard.check()
    called: list[str] = []
    guard.register_loss_callback(lambda: called.append("lost"))
    assert called == ["lost"]
    guard.release()


def test_a_node_that_is_cut_off_stops_before_others_take_over(tmp_path: Path) -> None:
    first = claimed(tmp_path / "claims")
    clock = FakeClock()
    guard = guard_of(first, takeover_seconds=1.5, clock=clock)
    (tmp_path / "claims").rename(tmp_path / "away")
    (tmp_path / "claims").write_text("as a mount point whose server does not answer")
    clock.sleep(1.0)
    time.sleep(0.3)  # a few heartbeats that fail
    assert not guard.lost
    clock.sleep(0.3)
    wait_until(lambda: guard.lost)


def wait_until(condition: object, seconds: float = 90.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
