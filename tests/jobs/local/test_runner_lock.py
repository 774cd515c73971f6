import os

from jobs.local.runner_lock import current_holder, holding_runner_lock, observe_runner
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store


def test_others_see_who_runs_and_what_is_queued(store: Store) -> None:
    ledger = Ledger(store.sweep("toy").ledger)
    assert current_holder(store) is None
    with holding_runner_lock(store, sweep="toy", writer=ledger.writer):
        ledger.append(Event(event=EventKind.INTENT, key=key) for key in ("a", "b"))
        ledger.append([Event(event=EventKind.STARTED, key="a")])
        holder = current_holder(store)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert set(observe_runner(store, "toy")) == {"b"}
        assert observe_runner(store, "other") == {}
    assert observe_runner(store, "toy") == {}
