import os

from jobs.local.runner_lock import find_runner_owner, hold_runner_lock, read_runner_queue
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store


def test_others_see_who_runs_and_what_is_queued(store: Store) -> None:
    ledger = Ledger(store.locate_sweep("toy").ledger)
    assert find_runner_owner(store) is None
    with hold_runner_lock(store, sweep="toy", writer=ledger.writer):
        ledger.append(Event(event=EventKind.INTENT, key=key) for key in ("a", "b"))
        ledger.append([Event(event=EventKind.STARTED, key="a")])
        holder = find_runner_owner(store)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert set(read_runner_queue(store, "toy")) == {"b"}
        assert read_runner_queue(store, "other") == {}
    assert read_runner_queue(store, "toy") == {}
