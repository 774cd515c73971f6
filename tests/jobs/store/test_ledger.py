from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.slurm.batch_ledger import read_batch_history
from jobs.store.ledger import Event, EventKind, Ledger, collect_user_requests, has_batches, read_events
from jobs.store.paths import Store
from jobs.store.records import FailureClass
from tests.jobs.fake_clock import FakeClock


def test_events_come_back_as_written_those_of_each_writer_in_its_order(store: Store) -> None:
    folder = store.locate_sweep("toy").ledger
    late = Event(event=EventKind.ENDED, key="a", time=2.0, attempt="local-0001", id="7", failure=FailureClass.KILLED)
    early = Event(event=EventKind.INTENT, key="a", time=1.0)
    Ledger(folder).append([late])
    other = Ledger(folder)
    other.writer = "other-host"
    other.append([early])
    assert read_events(folder) == [early, late]
    assert read_events(folder, "other-host") == [early]


def test_a_torn_last_line_is_ignored(store: Store) -> None:
    folder = store.locate_sweep("toy").ledger
    ledger = Ledger(folder)
    events = [Event(event=EventKind.CANCELLED, key=key, time=1.0) for key in ("a", "b")]
    ledger.append(events)
    path = folder / f"{ledger.writer}.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        assert read_events(folder)[0] == events[0]
        assert read_events(folder) in ([events[0]], events)  # the last only if nothing but its newline is gone


def test_lines_of_another_version_are_passed_over(store: Store) -> None:
    folder = store.locate_sweep("toy").ledger
    folder.mkdir(parents=True)
    (folder / "w.jsonl").write_text(
        '{"event":"sung","key":"a","time":1}\n[]\n7\n{"event":"resumed","key":"a","time":3}\n'
    )
    assert [event.event for event in read_events(folder)] == [EventKind.RESUMED]


def test_no_event_makes_no_file(store: Store) -> None:
    Ledger(store.locate_sweep("toy").ledger).append([])
    assert read_events(store.locate_sweep("toy").ledger) == []
    assert read_events(store.locate_sweep("toy").ledger, "nobody") == []
    assert not store.root.exists()


def test_the_last_wish_counts() -> None:
    def event(kind: EventKind, key: str, time: float) -> Event:
        return Event(event=kind, key=key, time=time)

    read = collect_user_requests(
        [
            event(EventKind.CANCELLED, "a", 1),
            event(EventKind.CANCELLED, "b", 2),
            event(EventKind.RESUMED, "b", 3),
            event(EventKind.RESUMED, "a", 4),
            event(EventKind.CANCELLED, "a", 5),
        ]
    )
    assert read.cancelled.keys() == {"a"}
    assert {key: each.before for key, each in read.resumed.items()} == {"b": 3, "a": 4}


def wish(folder: Path, writer: str, kind: EventKind, moment: float, **content: Any) -> None:
    """By somebody whose clock shows that moment."""
    ledger = Ledger(folder)
    ledger.writer = writer
    ledger.append_wishes([Event(event=kind, key="a", time=moment, **content)])


@pytest.mark.parametrize("hours", [-3.0, 3.0])
def test_the_last_wish_counts_whatever_the_clocks_say(tmp_path: Path, hours: float) -> None:
    """The one who cancels has a clock that is hours apart from that of the one who resumes."""
    wish(tmp_path, "ann", EventKind.CANCELLED, 20_000.0 + hours * 3600)
    assert collect_user_requests(read_events(tmp_path)).cancelled.keys() == {"a"}
    wish(tmp_path, "bob", EventKind.RESUMED, 20_000.0, attempts=("x",))
    read = collect_user_requests(read_events(tmp_path))
    assert read.cancelled == {}
    assert read.get_resumption("a").attempts == {"x"}
    wish(tmp_path, "ann", EventKind.CANCELLED, 20_000.0 + hours * 3600)
    assert collect_user_requests(read_events(tmp_path)).cancelled.keys() == {"a"}
    times = [event.time for event in sorted(read_events(tmp_path), key=lambda event: event.order)]
    assert times == sorted(times)  # versions that know no numbers go by the times


def test_of_two_wishes_that_did_not_know_of_each_other_the_cancellation_counts() -> None:
    pair = [Event(event=kind, key="a", time=1.0, order=4) for kind in (EventKind.CANCELLED, EventKind.RESUMED)]
    assert collect_user_requests(pair).cancelled.keys() == {"a"}
    assert collect_user_requests(pair[::-1]).cancelled.keys() == {"a"}


def test_wishes_of_an_earlier_version_stand_among_the_numbered_ones_by_their_time(tmp_path: Path) -> None:
    old = Event(event=EventKind.CANCELLED, key="a", time=5_000.0)
    Ledger(tmp_path).append([old])
    wish(tmp_path, "bob", EventKind.RESUMED, 1_000.0)
    assert collect_user_requests(read_events(tmp_path)).cancelled == {}
    Ledger(tmp_path, FakeClock(2_000_000.0)).append([replace(old, time=6_000.0)])
    assert collect_user_requests(read_events(tmp_path)).cancelled.keys() == {"a"}


def test_a_ledger_that_may_not_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    folder = tmp_path / "ledger"
    Ledger(folder).append([Event(event=EventKind.CANCELLED, key="a", by="bob")])
    assert [(event.key, event.by) for event in read_events(folder)] == [("a", "bob")]
    monkeypatch.setattr("os.listdir", refuse)
    monkeypatch.setattr("os.scandir", refuse)
    for read in (read_events, read_batch_history, has_batches):
        with pytest.raises(PermissionError):
            read(folder)
