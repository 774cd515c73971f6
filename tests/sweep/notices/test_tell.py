"""What a tick finds and tells: each event once, what fails again later, and never at the tick's cost."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.reconcile.canary import CanaryLimits
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.cli import main
from sweep.kept_limits import update_limits
from sweep.notices.log import NoticeLog
from sweep.notices.settings import NoticeSettings, Receiver
from sweep.notices.tell import tell_events
from sweep.plan.manifest import read_manifest, write_manifest
from sweep.stored_sweep import StoredSweep, open_sweep
from tests.jobs.fake_clock import FakeClock
from tests.sweep import synthetic_store
from tests.sweep.notices.receiver import Inbox, serve
from tests.sweep.synthetic_store import START, Grid, Written

HOOK = Receiver(name="hook", kind="webhook", url_variable="HOOK")


class Told:
    """A sweep of two cells, a receiver, and a clock."""

    def __init__(self, folder: Path, inbox: Inbox) -> None:
        self.inbox = inbox
        self.clock = FakeClock(time=START + 1e6)
        self.written: Written = synthetic_store.plan(
            Store(folder / "store"), Grid(branches=(0, 50), shares=(0.5,), epochs=(1,))
        )
        self.set_receivers(HOOK)

    def set_receivers(self, *receivers: Receiver, **settings: float) -> None:
        path = self.written.store.locate_sweep("toy").manifest
        notices = NoticeSettings(receivers=receivers, **settings)  # type: ignore[arg-type]
        write_manifest(path, replace(read_manifest(path), notices=notices))

    @property
    def stored(self) -> StoredSweep:
        return open_sweep(self.written.store.root, "toy")

    def tick(self, hours: float = 0.0) -> list[str]:
        """Kinds of the events that arrived."""
        before = len(self.inbox.taken)
        self.clock.sleep(hours * 3600)
        self.line = tell_events(self.stored, clock=self.clock)
        return [str(each["kind"]) for each in self.inbox.taken[before:]]

    def fail(self, key: str, attempt: str = "a1", failure: str = "code") -> None:
        synthetic_store.write_attempt(
            self.written, key, attempt, START, 9.0, failure=FailureClass(failure), message="it broke"
        )


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with serve(Inbox(random.Random(1))) as inbox:
        monkeypatch.setenv("HOOK", inbox.url)
        yield Told(tmp_path, inbox)


def test_failures_milestones_and_the_end_are_told_once_each(told: Told) -> None:
    assert told.tick() == []
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    assert told.tick() == ["milestone"]
    assert told.tick() == []
    first, second = told.written.phase("pretrain")
    told.fail(first)
    assert told.tick() == ["failed"]
    assert "it broke" in told.inbox.taken[-1]["title"]
    assert "status toy" in told.inbox.taken[-1]["step"]
    told.fail(second)
    assert told.tick() == ["failed"]
    assert told.tick() == []
    synthetic_store.finish(told.written)
    assert told.tick() == ["milestone", "done"]
    assert told.tick() == []


def test_several_of_a_kind_are_one_notice(told: Told) -> None:
    for key in told.written.phase("pretrain"):
        told.fail(key)
    assert told.tick() == ["failed"]
    assert told.inbox.taken[-1]["title"] == "toy: 2 jobs failed for good"
    assert len(told.inbox.taken[-1]["lines"]) == 2


def test_a_full_disk_is_told_once_and_not_at_each_attempt(told: Told) -> None:
    key = told.written.phase("trunk")[0]
    told.fail(key, "a1", "storage")
    assert told.tick() == ["disk"]
    told.fail(key, "a2", "storage")
    assert told.tick() == []


def test_what_a_receiver_did_not_take_is_told_after_a_pause_that_grows(told: Told) -> None:
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    told.inbox.trouble = 1.0
    told.inbox.choose_answer = lambda: "refuse"  # type: ignore[method-assign]
    assert told.tick() == []
    assert "hook took none: the webhook answered 500; it is tried again" in told.line
    told.tick(hours=0.5)
    told.inbox.choose_answer = lambda: "ok"  # type: ignore[method-assign]
    assert told.tick(hours=0.01) == []  # its pause is not over
    assert told.line == ""
    assert told.tick(hours=0.1) == ["milestone"]


def test_quiet_hours_keep_a_notice_for_later(told: Told) -> None:
    told.set_receivers(replace(HOOK, quiet="00:00-23:59"))
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    assert told.tick() == []
    told.set_receivers(HOOK)
    assert told.tick() == ["milestone"]


def test_a_receiver_hears_the_kinds_that_it_asked_for(told: Told) -> None:
    told.set_receivers(replace(HOOK, events=("done",)))
    synthetic_store.finish(told.written)
    assert told.tick() == ["done"]


def test_a_stall_is_told_after_its_hours_and_again_only_after_something_moved(told: Told) -> None:
    told.set_receivers(HOOK, stalled_hours=2.0)
    assert told.tick() == []
    assert told.tick(hours=1.9) == []
    assert told.tick(hours=0.2) == ["stalled"]
    assert "nothing has moved for 2.1 h, though 2 jobs could" in told.inbox.taken[-1]["title"]
    assert told.tick(hours=9) == []
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    assert told.tick() == ["milestone"]
    assert told.tick(hours=2.1) == ["stalled"]


def test_a_budget_is_told_at_80_percent_and_at_its_end(told: Told) -> None:
    synthetic_store.finish(told.written, told.written.phase("trunk"))  # 0.8 GPU-hours of an H100
    limits = told.stored.paths.limits
    update_limits(limits, {"backend": "slurm", "budget_a100_hours": 100.0})
    assert told.tick() == ["milestone"]
    update_limits(limits, {"budget_a100_hours": 2.5})  # 2.32 are spent, and no job has room
    assert told.tick() == ["budget"]
    assert len(told.inbox.taken[-1]["lines"]) == 2
    assert told.tick() == []


def test_a_tick_that_was_killed_after_delivery_tells_again_under_the_same_id(told: Told) -> None:
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    told.tick()
    log = NoticeLog(told.stored.paths.notices)
    lines = log.path.read_text().splitlines()
    log.path.write_text("".join(f"{line}\n" for line in lines if '"told"' not in line))
    assert told.tick() == ["milestone"]
    assert told.inbox.ids[0] == told.inbox.ids[1]


def test_a_failure_of_notices_never_fails_a_tick(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(told.written.store.root.parent, "config", "sweep")
    config.mkdir(parents=True)
    (config / "notices.yaml").write_text("receivers: [{name: a, kind: pigeon}]\n")
    assert main(["tick", "toy", "--no-results", "--store", str(told.written.store.root)]) == 0
    assert "notices: none are told" in capsys.readouterr().err


def test_a_users_own_receivers_are_told_beside_those_of_the_sweep(told: Told) -> None:
    config = Path(told.written.store.root.parent, "config", "sweep")
    config.mkdir(parents=True)
    (config / "notices.yaml").write_text("receivers: [{name: mine, kind: webhook, url_variable: HOOK}]\n")
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    assert told.tick() == ["milestone", "milestone"]
    assert told.tick() == []


def test_the_command_shows_what_was_told_and_what_waits_and_tests(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["notices", "toy", "--store", str(told.written.store.root)]
    synthetic_store.finish(told.written, told.written.phase("trunk"))
    told.tick()
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "toy: phase trunk is done: 1 job  (hook)" in shown.out
    assert main([*words, "--test"]) == 0
    assert told.inbox.taken[-1]["test"] is True
    assert "test: hook took it" in capsys.readouterr().out
    told.inbox.choose_answer = lambda: "refuse"  # type: ignore[method-assign]
    assert main([*words, "--test"]) == 1
    assert "test: hook took none: the webhook answered 500" in capsys.readouterr().out


def test_jobs_behind_a_broken_first_job_of_their_shape_are_told_once(told: Told) -> None:
    path = told.written.store.locate_sweep("toy").manifest
    write_manifest(path, replace(read_manifest(path), canary=CanaryLimits()))
    assert told.tick() == []
    told.fail(told.written.phase("trunk")[0])
    assert told.tick() == ["failed", "held"]
    assert any("of shape pretrain" in str(each["title"]) for each in told.inbox.taken)
    assert told.tick() == []
