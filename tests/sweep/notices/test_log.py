"""The log of events: whole lines count, once each, whoever wrote them."""

from datetime import datetime
from pathlib import Path

import pytest

from sweep.notices.log import LONGEST_PAUSE_SECONDS, NoticeEvent, NoticeLog, ReceiverRecord
from sweep.notices.settings import EVENTS, NoticeSettings, Receiver, parse_notices

EVENT = NoticeEvent(id="done-1", kind="done", title="all done", members=("done:x",), time=10.0)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = NoticeLog(tmp_path)
    log.append_events([EVENT])
    log.append_failed(EVENT, "hook", "no answer", 11.0)
    history = log.read()
    assert history.events == {"done-1": EVENT}
    assert history.members == {"done:x"}
    assert (history.receivers["hook"].failures, history.receivers["hook"].problem) == (1, "no answer")
    log.append_told(EVENT, "hook", 12.0)
    after = log.read().receivers["hook"]
    assert (after.told, after.told_at, after.failures) == ({"done-1"}, {"done-1": 12.0}, 0)


def test_a_torn_line_is_passed_over_and_the_next_one_stands_alone(tmp_path: Path) -> None:
    log = NoticeLog(tmp_path)
    log.append_events([EVENT])
    with log.path.open("a") as file:
        file.write('{"notice": "told", "id": "do')
    assert log.read().receivers == {}
    log.append_told(EVENT, "hook", 12.0)
    assert log.read().receivers["hook"].told == {"done-1"}


def test_an_event_that_two_wrote_counts_once(tmp_path: Path) -> None:
    log = NoticeLog(tmp_path)
    log.append_events([EVENT])
    other = tmp_path / "n-other-bob.jsonl"
    other.write_text(log.path.read_text() + '{"notice": "later", "time": 3}\n{"notice": "told"}\n[]\n')
    assert list(log.read().events) == ["done-1"]


def test_no_folder_is_an_empty_log(tmp_path: Path) -> None:
    assert NoticeLog(tmp_path / "none").read().events == {}


def test_pauses_grow_to_a_bound() -> None:
    waits = [ReceiverRecord(failures=number, failed_at=0.0).find_next_try() for number in range(60)]
    assert waits[:4] == [0, 60, 120, 240]
    assert waits[-1] == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize(
    ("quiet", "hour", "is_quiet"),
    [("22:00-07:00", 23, True), ("22:00-07:00", 6, True), ("22:00-07:00", 12, False), ("08:00-09:30", 8, True),
     ("08:00-09:30", 10, False), ("", 3, False)],
)  # fmt: skip
def test_quiet_hours_are_those_of_the_machine(quiet: str, hour: int, is_quiet: bool) -> None:
    receiver = Receiver(name="a", kind="mail", quiet=quiet)
    moment = datetime(2026, 11, 30, hour, 15)
    assert receiver.is_quiet(moment.timestamp()) is is_quiet


def test_settings_are_read_as_a_plan_holds_them() -> None:
    given = NoticeSettings(receivers=(Receiver(name="a", kind="mail", to=("ann",), events=("done",)),), cells=(10.0,))
    record = {**given.build_record(), "added_later": 1}
    record["receivers"] = [
        {**each, "to": [*each["to"]], "events": [*each["events"]], "x": 1} for each in record["receivers"]
    ]
    record["cells"] = [10.0]
    assert parse_notices(record) == given
    assert parse_notices(None) is None
    assert [kind for kind in EVENTS if given.receivers[0].is_told_of(kind)] == ["done"]


@pytest.mark.parametrize(
    "record",
    [[], {"receivers": 3}, {"receivers": [3]}, {"receivers": [{"name": "a", "kind": "pigeon"}]}, {"stalled_hours": "6"},
     {"receivers": [{"name": "a", "kind": "mail", "to": [1]}]}, {"cells": ["half"]}],
)  # fmt: skip
def test_settings_that_are_none_are_refused(record: object) -> None:
    with pytest.raises(ValueError, match="notices"):
        parse_notices(record)
