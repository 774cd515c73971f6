"""Processes that build sequences, so that reading, decoding and tokenizing run beside the training.

They are started anew (spawn), never forked from a process with threads, and hold no state that the outcome depends on:
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
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from stages.data.order import ShardOrder
from stages.data.packing import PackedSequence, pack_sequence
from stages.data.progress import SequenceCounts, decode_counts
from stages.data.sample import AbsentSampleError, BadSampleError, Document, SampleSource
from stages.distributed import Communicator
from stages.errors import DataError, OtherRankError
from stages.stop import STOP_SIGNALS

# One sequence of a run, built from where it begins alone: in this process or in any other, with the same outcome.


class SequenceStart(NamedTuple):
    """Where a sequence begins."""

    source: int
    stripe: int
    """Which stripe of the source's order."""
    cursor: int
    """Samples of the stripe before it."""


class BuiltSequence(NamedTuple):
    """A sequence, and what was met on the way."""

    sequence: PackedSequence | None
    """None if there were so many bad samples that the run is to stop."""
    counts: SequenceCounts
    bad: dict[int, str]
    """Number of each bad sample, and why it is one."""


class Builder(Protocol):
    """Builds sequences. It has no state that the outcome depends on, and can be pickled."""

    def build(self, place: SequenceStart) -> BuiltSequence:
        """The sequence that begins at `place`."""
        ...


@dataclass(frozen=True)
class SequenceBuilder:
    """Builds sequences of up to `context` positions. It has no state that the outcome depends on, and can be pickled.

    The order of each source is that of `ShardOrder`; stripe l of n holds its positions l, l + n, l + 2n...
    """

    sources: Sequence[SampleSource]
    orders: Sequence[ShardOrder]
    context: int
    stripes: int
    most_documents: int | None
    """Documents of a sequence at most; None: as many as fit."""
    bad_samples_limit: int

    def build(self, place: SequenceStart) -> BuiltSequence:
        """The sequence that begins at `place`."""
        lane = StripeReader(self, place)
        try:
            sequence = pack_sequence(lane, self.context, place.source, most=self.most_documents)
        except TooManyBadSamplesError:
            counts = SequenceCounts(0, 0, 0, 0, 0, lane.cursor, tuple(lane.bad))
            return BuiltSequence(None, counts, lane.bad)
        return BuiltSequence(sequence, SequenceCounts.from_sequence(sequence, tuple(lane.bad)), lane.bad)


class TooManyBadSamplesError(Exception):
    """More bad samples than the run may have, within a single sequence."""


class StripeReader:
    """Documents of one stripe of a source, from a place on; iterating moves `cursor`."""

    def __init__(self, builder: SequenceBuilder, place: SequenceStart) -> None:
        self.cursor = place.cursor
        self.bad: dict[int, str] = {}
        self._source, self._order = builder.sources[place.source], builder.orders[place.source]
        self._lane, self._lanes = place.stripe, builder.stripes
        self._limit = min(builder.bad_samples_limit + 1, self._source.size)
        self._expect_shards()

    def read_next(self, room: int | None) -> Document | None:
        """The next good document; bad ones are noted and passed over. None: see `DocumentStream`."""
        while True:
            position = self._lane + self.cursor * self._lanes
            index = self._order.compute_sample(position)
            self.cursor += 1
            try:
                return self._source.read_document(index, position, room)
            except AbsentSampleError:
                continue
            except BadSampleError as error:
                self.bad[index] = str(error)
                if len(self.bad) >= self._limit:
                    raise TooManyBadSamplesError from error

    def _expect_shards(self) -> None:
        """Tells the source which shards are next: those of the window that we are in, and of the one after it."""
        window = self._order.compute_window(self._lane + self.cursor * self._lanes)
        self._source.prefetch([*self._order.list_window_shards(window), *self._order.list_window_shards(window + 1)])


DEFAULT_MAX_WORKERS = 4
CHUNKS_PER_WORKER = 4
"""Parts of a batch for each worker: with fewer, one slow part holds up all; with more, the sending costs more."""


class BatchesClosedError(Exception):
    """The batches are not wanted any more."""


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
    """`count` processes that build sequences with a builder, which is copied to each. `close` ends them."""

    def __init__(self, builder: Builder, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._closed = False
        self._submitted: list[Future[list[BuiltSequence]]] = []
        self._executor = ProcessPoolExecutor(
            count, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker, initargs=(builder,)
        )

    def build(self, places: Sequence[SequenceStart]) -> list[BuiltSequence]:
        """The sequences that begin at `places`, in that order.

        DataError if a worker has died, or what `Builder.build` raised in it; BatchesClosedError after `close`.
        """
        try:
            return [built for chunk in self._submit(places) for built in unwrap_result(chunk)]
        except BrokenProcessPool as error:
            raise DataError(
                "a data worker died; killed from outside, or out of memory: "
                "with data_workers: 0 sequences are built in the job's own process"
            ) from error

    def _submit(self, places: Sequence[SequenceStart]) -> "list[Future[list[BuiltSequence]]]":
        size = max(1, len(places) // (CHUNKS_PER_WORKER * self._count))
        parts = [places[start : start + size] for start in range(0, len(places), size)]
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
        # Debian 12's Python 3.11.2 waits for ever for parts that were cancelled before it looked at them, unless it
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
    threading.Thread(target=exit_with_parent, args=(parent.sentinel,), daemon=True).start()
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # the cores are shared among the workers already
    _builders.append(builder)


def exit_with_parent(sentinel: int) -> None:
    """Ends this process at once when the sentinel's process is gone: a parent that was killed tells nobody."""
    connection.wait([sentinel])
    os._exit(1)


def build_chunk(places: Sequence[SequenceStart]) -> list[BuiltSequence]:
    """In a worker: the sequences that begin at `places`."""
    return [_builders[0].build(place) for place in places]


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


# What the ranks of a job tell each other of each batch: what its sequences took, or that there is no such batch.

BUILT, CLOSED, FAILED = 0, 1, 2


def select_own_part(places: Sequence[SequenceStart], peers: Communicator) -> Sequence[SequenceStart]:
    """The places of the sequences that this rank builds: of n those from rank * n / size on."""
    bounds = [len(places) * rank // peers.size for rank in (peers.rank, peers.rank + 1)]
    return places[bounds[0] : bounds[1]]


# Why: docs/decisions.md, D13
def build_together(
    own: Sequence[SequenceStart], build: Callable[[Sequence[SequenceStart]], list[BuiltSequence]], peers: Communicator
) -> tuple[list[BuiltSequence], list[SequenceCounts]]:
    """This rank's `own` sequences of a batch, and the counts of all ranks' in the batch's order.

    What `build` raises here is raised, after the other ranks were told; there it is an OtherRankError.
    BatchesClosedError if a rank has closed its batches.
    """
    status = FAILED
    try:
        built = build(own)
        status = BUILT
    except BatchesClosedError:
        status = CLOSED
        raise
    finally:
        if status != BUILT:
            peers.gather(np.array([status], dtype=np.int64))
    numbers = [BUILT, *(number for each in built for number in each.counts.encode_numbers())]
    gathered = peers.gather(np.array(numbers, dtype=np.int64))
    said = [int(given[0]) for given in gathered]
    if FAILED in said:
        raise OtherRankError(f"rank {said.index(FAILED)} could not build its part of a batch; its log says why")
    if CLOSED in said:
        raise BatchesClosedError
    return built, [counts for given in gathered for counts in decode_counts(given[1:].tolist())]
