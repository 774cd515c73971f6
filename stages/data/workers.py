"""Processes that build sequences, so that reading, decoding and tokenizing run beside the training.

They are new processes (spawn), never forks of a process with threads, and hold no state that the outcome depends on:
any number of them gives the same sequences. They end with the process that started them, however that ends.
"""

import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import Generic, TypeVar

from stages.data.packing import BuiltSequence, Packer, SequenceStart
from stages.errors import DataError
from stages.stop import STOP_SIGNALS

DEFAULT_MAX_WORKERS = 4
CHUNKS_PER_WORKER = 4
"""Parts of a batch for each worker: with fewer, one slow part holds up all; with more, the sending costs more."""


class BatchesClosedError(Exception):
    """The batches were closed while one was being built."""


def resolve_worker_count(given: int, environment: Mapping[str, str], *, on_gpu: bool) -> int:
    """`settings.data_workers` as a number: -1 means none beside a CPU's training, and up to four for a GPU's.

    The cores that this process may run on are shared with the LOCAL_WORLD_SIZE processes that a launcher started here.
    """
    if given >= 0:
        return given
    processes = environment.get("LOCAL_WORLD_SIZE", "")
    cores = len(os.sched_getaffinity(0)) // (int(processes) if processes.isdecimal() and int(processes) else 1)
    return max(0, min(DEFAULT_MAX_WORKERS, cores - 1)) if on_gpu else 0


class WorkerPool:
    """`count` processes that build sequences with a packer, which is copied to each. `close` ends them."""

    def __init__(self, packer: Packer, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._closed = False
        self._submitted: list[Future[list[BuiltSequence]]] = []
        self._executor = ProcessPoolExecutor(
            count, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker, initargs=(packer,)
        )

    def build(self, starts: Sequence[SequenceStart]) -> list[BuiltSequence]:
        """The sequences that begin at `starts`, in that order.

        DataError if a worker has died, or what `Packer.build` raised in it; BatchesClosedError after `close`.
        """
        try:
            return [built for chunk in self._submit(starts) for built in unwrap_result(chunk)]
        except BrokenProcessPool as error:
            raise DataError(
                "a data worker died; killed from outside, or out of memory: "
                "with data_workers: 0 sequences are built in the job's own process"
            ) from error

    def _submit(self, starts: Sequence[SequenceStart]) -> "list[Future[list[BuiltSequence]]]":
        size = max(1, len(starts) // (CHUNKS_PER_WORKER * self._count))
        parts = [starts[first : first + size] for first in range(0, len(starts), size)]
        with self._lock, block_stop_signals():
            if self._closed:
                raise BatchesClosedError
            self._submitted = [self._executor.submit(build_chunk, part) for part in parts]
        return self._submitted

    def cancel(self) -> None:
        """Makes a `build` in another thread end soon, by BatchesClosedError or with its last parts."""
        with self._lock:
            self._closed = True
            for chunk in self._submitted:
                chunk.cancel()

    def close(self) -> None:
        """Ends the processes and waits for them."""
        self.cancel()
        # Debian 12's Python 3.11.2 waits for ever for parts that were cancelled before it reached them, unless it
        # cancels them itself (cpython#94440)
        self._executor.shutdown(cancel_futures=True)


def unwrap_result(chunk: "Future[list[BuiltSequence]]") -> list[BuiltSequence]:
    """What a worker has built."""
    try:
        return chunk.result()
    except CancelledError as error:
        raise BatchesClosedError from error


@contextmanager
def block_stop_signals() -> Iterator[None]:
    """Processes started in the block are deaf to the signals that ask a job to save and stop, or for its stacks: those
    are its alone.

    A launcher sends them to all its processes; a worker that obeyed would take the job's last batches with it.
    """
    resource_tracker.ensure_running()  # it is started now or in the block, and then it would unblock some of them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_packers: list[Packer] = []
"""A worker's packer; empty in other processes."""


def prepare_worker(packer: Packer) -> None:
    """The beginning of a worker: keeps the packer, and sees to it that the worker ends with its parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this runs in worker processes alone
    threading.Thread(target=exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # the cores are shared among the workers already
    _packers.append(packer)


def exit_with_parent(sentinel: int) -> None:
    """Ends this process at once when the sentinel's process is gone: a parent that was killed sends no message."""
    connection.wait([sentinel])
    os._exit(1)


def build_chunk(starts: Sequence[SequenceStart]) -> list[BuiltSequence]:
    """In a worker: the sequences that begin at `starts`."""
    return [_packers[0].build(start) for start in starts]


# A thread that keeps results ready ahead of the one who takes them.

T = TypeVar("T")
CLOSE_SECONDS = 20.0
"""Longest wait for the thread: it may be waiting for a rank that is gone."""


class Prefetcher(Generic[T]):
    """Calls `produce` again and again in a thread of its own, so that `ahead` results are ready.

    After n results were taken, exactly n + `ahead` calls have been made or will be, also when it is closed, unless one
    raises: so ranks that exchange something in each call agree on their number.
    """

    def __init__(self, produce: Callable[[], T], ahead: int) -> None:
        self._produce = produce
        self._results: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: one more call; False: the end
        for _ in range(ahead):
            self._orders.put(True)
        self._thread = threading.Thread(target=self._run, name="batches ahead", daemon=True)
        self._thread.start()

    def take(self) -> T:
        """The next result; what `produce` raised instead of it is raised here, and again at each further call."""
        result = self._results.get()
        if isinstance(result, BaseException):
            self._results.put(result)
            raise result
        self._orders.put(True)
        return result

    def close(self) -> None:
        """Waits for the calls that are due, and for the thread's end, though not forever."""
        self._orders.put(False)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._orders.get():
            try:
                self._results.put(self._produce())
            except BaseException as error:  # noqa: BLE001 - it is the taker's, in the other thread, to deal with
                self._results.put(error)
                return
