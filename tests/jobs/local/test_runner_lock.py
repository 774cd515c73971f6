import os

from jobs.local.runner_lock import find_runner_owner, hold_runner_lock, read_runner_queue
from jobs.observation import ClusterState
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store


def test_others_see_who_runs_and_what_is_queued_or_started(store: Store) -> None:
    ledger = Ledger(store.locate_sweep("toy").ledger)
    assert find_runner_owner(store) is None
    with hold_runner_lock(store, sweep="toy", writer=ledger.writer):
        ledger.append(Event(event=EventKind.INTENT, key=key) for key in ("a", "b", "c"))
        ledger.append(Event(event=EventKind.STARTED, key=key) for key in ("a", "c"))
        ledger.append([Event(event=EventKind.ENDED, key="c")])
        holder = find_runner_owner(store)
        assert holder is not None
        assert holder.pid == os.getpid()
        states = {key: seen.state for key, seen in read_runner_queue(store, "toy").items()}
        assert states == {"a": ClusterState.RUNNING, "b": ClusterState.QUEUED}
        assert read_runner_queue(store, "other") == {}
    assert read_runner_queue(store, "toy") == {}
