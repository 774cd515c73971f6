"""One local runner a store: who has it, and what it has queued, as any other process can see."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import RunnerBusyError
from jobs.observation import ClusterState, Observation
from jobs.store.flock import acquire_lock, is_held
from jobs.store.ledger import EventKind, read_events
from jobs.store.paths import Store
from jobs.store.records import build_record, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOwner:
    """The runner that holds the lock."""

    sweep: str
    writer: str
    """Its name in the ledger."""
    host: str
    pid: int
    since: float
    """Unix seconds."""
    cpus: int = 0
    """Cores that it gives to jobs, all together; 0: an earlier version did not say."""
    gpus: int = 0

    def __str__(self) -> str:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, sweep {self.sweep}, since {started}"


@contextmanager
def hold_runner_lock(
    store: Store, *, sweep: str, writer: str, cpus: int = 0, gpus: int = 0, clock: Clock = SYSTEM_CLOCK
) -> Iterator[None]:
    """Nobody else runs jobs of this store here while the block lasts. Raises RunnerBusyError.

    `cpus`, `gpus`: what the runner gives to its jobs.
    """
    lock = acquire_lock(store.runner_lock, wait_seconds=0.2, clock=clock)
    if lock is None:
        raise RunnerBusyError(
            f"{store.root} has a runner already ({find_runner_owner(store) or 'just started'}); "
            "watch it with `sweep status`, or stop it with Ctrl-C there"
        )
    try:
        holder = RunnerOwner(
            sweep=sweep, writer=writer, host=os.uname().nodename, pid=os.getpid(), since=clock.now(),
            cpus=cpus, gpus=gpus,
        )  # fmt: skip
        os.truncate(lock, 0)
        os.write(lock, json.dumps(asdict(holder)).encode())
        yield
    finally:
        os.close(lock)


def find_runner_owner(store: Store) -> RunnerOwner | None:
    """The live runner of the store; None if there is none, or it has not yet said who it is."""
    if not is_held(store.runner_lock):
        return None
    record = read_record(store.runner_lock)
    return build_record(RunnerOwner, record or {})


def read_runner_queue(store: Store, sweep: str) -> Mapping[str, Observation]:
    """What the live local runner of this sweep has queued or started, from its part of the ledger; empty without one.

    A started attempt takes a while until its folder and its lock show it: until then only the runner knows of it.
    """
    holder = find_runner_owner(store)
    if holder is None or holder.sweep != sweep:
        return {}
    states = {EventKind.INTENT: ClusterState.QUEUED, EventKind.STARTED: ClusterState.RUNNING}
    last = {event.key: event for event in read_events(store.locate_sweep(sweep).ledger, holder.writer)}
    return {
        key: Observation(state=states[event.event], id=event.attempt)
        for key, event in last.items()
        if event.event in states
    }
