"""Processes that build sequences, so that reading, decoding and tokenizing run beside the training.

They are started anew (spawn), never forked from a process with threads, and hold no state that the outcome depends on:
any number of them gives the same sequences. They end with the process that started them, however that ends.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker

from stages.data.builder import Builder, Built, Place
from stages.errors import DataError
from stages.stop import STOP_SIGNALS

MOST_BY_DEFAULT = 4
CHUNKS_PER_WORKER = 4
"""Parts of a batch for each worker: with fewer, one slow part holds up all; with more, the sending costs more."""


class ClosedError(Exception):
    """The batches are not wanted any more."""


def worker_count(given: int, environment: Mapping[str, str], *, on_gpu: bool) -> int:
    """`settings.data_workers` as a number: -1 means none beside a CPU's training, and up to four for a GPU's.

    The cores that this process may run on are shared with the LOCAL_WORLD_SIZE processes that a launcher started here.
    """
    if given >= 0:
        return given
    processes = environment.get("LOCAL_WORLD_SIZE", "")
    cores = len(os.sched_getaffinity(0)) // (int(processes) if processes.isdecimal() and int(processes) else 1)
    return max(0, min(MOST_BY_DEFAULT, cores - 1)) if on_gpu else 0


class Workers:
    """`count` processes that build sequences with a builder, which is copied to each. `close` ends them."""

    def __init__(self, builder: Builder, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._closed = False
        self._submitted: list[Future[list[Built]]] = []
        self._executor = ProcessPoolExecutor(
            count, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker, initargs=(builder,)
        )

    def build(self, places: Sequence[Place]) -> list[Built]:
        """The sequences that begin at `places`, in that order.

        DataError if a worker has died, or what `Builder.build` raised in it; ClosedError after `close`.
        """
        try:
            return [built for chunk in self._submit(places) for built in result_of(chunk)]
        except BrokenProcessPool as error:
            raise DataError(
                "a data worker died; killed from outside, or out of memory: "
                "with data_workers: 0 sequences are built in the job's own process"
            ) from error

    def _submit(self, places: Sequence[Place]) -> "list[Future[list[Built]]]":
        size = max(1, len(places) // (CHUNKS_PER_WORKER * self._count))
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        with self._lock, stop_signals_blocked():
            if self._closed:
                raise ClosedError
            self._submitted = [self._executor.submit(build_chunk, part) for part in parts]
        return self._submitted

    def cancel(self) -> None:
        """Makes a `build` in another thread end soon, by ClosedError or with its last parts."""
        with self._lock:
            self._closed = True
            for chunk in self._submitted:
                chunk.cancel()

    def close(self) -> None:
        """Ends the processes and waits for them."""
        self.cancel()
        # Debian 12's Python 3.11.2 waits for ever for parts that were cancelled before it looked at them, unless it
        # cancels them itself (cpython#94440)
        self._executor.shutdown(cancel_futures=True)


def result_of(chunk: "Future[list[Built]]") -> list[Built]:
    """What a worker has built."""
    try:
        return chunk.result()
    except CancelledError as error:
        raise ClosedError from error


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes started in the block are deaf to the signals that ask a job to save and stop: those are its alone.

    A launcher sends them to all its processes; a worker that obeyed would take the job's last batches with it.
    """
    resource_tracker.ensure_running()  # it is started now or in the block, and then it would unblock some of them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_builders: list[Builder] = []
"""A worker's builder; empty in other processes."""


def prepare_worker(builder: Builder) -> None:
    """The beginning of a worker: keeps the builder, and sees to it that the worker ends with its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in worker processes alone
    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # the cores are shared among the workers already
    _builders.append(builder)


def end_with(sentinel: int) -> None:
    """Ends this process at once when the sentinel's process is gone: a parent that was killed tells nobody."""
    connection.wait([sentinel])
    os._exit(1)


def build_chunk(places: Sequence[Place]) -> list[Built]:
    """In a worker: the sequences that begin at `places`."""
    return [_builders[0].build(place) for place in places]
