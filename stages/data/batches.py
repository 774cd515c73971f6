"""Batches of training, from sources to tensors.

    sampler -> packer -> collator -> prefetcher

The sampler plans which sequences come next (`Mixture`, `ExampleSampler`), the packer builds each from its source, the
collator makes tensors of them, and the prefetcher does all that ahead of the loop. One `DataState` says how far a run
has come; each batch comes with the state after it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from stages.data.collate import Batch, Collator, count_loss_terms
from stages.data.packing import BuiltSequence, Packer, SequenceCounts, SequenceStart, decode_counts
from stages.data.progress import DataState
from stages.data.sample import SampleSource
from stages.data.workers import BatchesClosedError, Prefetcher, WorkerPool
from stages.distributed import SINGLE_PROCESS, Communicator
from stages.errors import OtherRankError


class Sampler(Protocol):
    """Plans the sequences of each batch; has no state of its own, so that any batch can be planned again."""

    @property
    def sources(self) -> Sequence[SampleSource]: ...

    @property
    def packer(self) -> Packer: ...

    def create_state(self) -> DataState:
        """The state before the first batch."""
        ...

    def plan_batch(self, state: DataState) -> Sequence[SequenceStart]:
        """Where the sequences of the next batch begin; equal on all ranks."""
        ...

    def select_own_part(self, plan: Sequence[SequenceStart], peers: Communicator) -> Sequence[SequenceStart]:
        """Those that this rank builds."""
        ...

    def record_batch(
        self,
        state: DataState,
        plan: Sequence[SequenceStart],
        counts: Sequence[SequenceCounts],
        reasons: Mapping[int, Mapping[int, str]],
    ) -> None:
        """Adds a batch to `state`. DataError if more samples are bad than the limit allows.

        `counts`: all ranks' parts, one after the other. `reasons`: by source and sample, why those that this rank has
        read are bad.
        """
        ...


class BatchAndState(NamedTuple):
    """A batch, and the state of the data after it."""

    batch: Batch
    state: DataState


# Why: docs/decisions.md, D73
class BatchLoader:
    """Batches, of each this rank's part. How many processes build them, and how far ahead, does not change them.

    `close` ends what was started; also a `with` block does.
    """

    def __init__(
        self,
        sampler: Sampler,
        collator: Collator,
        *,
        peers: Communicator = SINGLE_PROCESS,
        workers: int = 0,
        prefetch_batches: int = 2,
        pin: bool = False,
    ) -> None:
        """`workers`: processes that build ahead of the loop; 0: batches are built when asked for, in this process.

        `prefetch_batches`: how many are ready ahead. `pin`: in page-locked memory, for copies to a GPU.
        """
        self.sampler = sampler
        self.state = self._state_ahead = sampler.create_state()
        """After the batch that was returned last, and after the one that was built last. Neither object changes."""
        self._collator, self._peers, self._pin = collator, peers, pin
        self._worker_count, self._prefetch_batches = workers, prefetch_batches
        self._workers: WorkerPool | None = None
        self._prefetcher: Prefetcher[BatchAndState] | None = None

    @property
    def source_names(self) -> list[str]:
        return [source.name for source in self.sampler.sources]

    def take_batch(self) -> Batch:
        """The next global batch. DataError for bad data beyond the limit, or if a worker or another rank has failed."""
        if self._worker_count and self._prefetcher is None:
            self._workers = WorkerPool(self.sampler.packer, self._worker_count)
            self._prefetcher = Prefetcher(self._build_batch, self._prefetch_batches)
        try:
            batch, self.state = self._prefetcher.take() if self._prefetcher is not None else self._build_batch()
        except BatchesClosedError as error:
            raise OtherRankError("another rank has ended; its log says why") from error
        return batch

    def restore(self, state: DataState) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.close()
        self.state = self._state_ahead = state

    def close(self) -> None:
        """Ends the thread and the processes; batches that were built ahead are dropped. All ranks are to call it."""
        if self._prefetcher is None or self._workers is None:
            return
        self._workers.cancel()
        self._prefetcher.close()
        self._workers.close()
        self._prefetcher = self._workers = None
        self._state_ahead = self.state

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build_batch(self) -> BatchAndState:
        """The next batch; with workers, in the prefetcher's thread."""
        state = self._state_ahead.copy()
        plan = self.sampler.plan_batch(state)
        own = self.sampler.select_own_part(plan, self._peers)
        built, counts = build_together(own, self._pack, self._peers)
        self.sampler.record_batch(state, plan, counts, collect_bad_reasons(own, built))
        sequences = [each.sequence for each in built if each.sequence is not None]
        micro_batches, positions = self._collator.collate(sequences, counts, self._peers)
        batch = Batch(
            micro_batches=[part.pin_memory() for part in micro_batches] if self._pin else micro_batches,
            count=count_loss_terms(counts, self._collator.loss_mean),
            positions=positions,
            images=sum(each.images for each in counts),
        )
        self._state_ahead = state
        return BatchAndState(batch, state)

    def _pack(self, starts: Sequence[SequenceStart]) -> list[BuiltSequence]:
        if self._workers is not None:
            return self._workers.build(starts)
        return [self.sampler.packer.build(start) for start in starts]


def collect_bad_reasons(starts: Sequence[SequenceStart], built: Sequence[BuiltSequence]) -> dict[int, dict[int, str]]:
    """By source and sample, why samples are bad."""
    reasons: dict[int, dict[int, str]] = {}
    for start, each in zip(starts, built, strict=True):
        if each.bad:
            reasons.setdefault(start.source, {}).update(each.bad)
    return reasons


# What the ranks of a job send each other for each batch: what its sequences took, or that there is no such batch.

BUILT, CLOSED, FAILED = 0, 1, 2


# Why: docs/decisions.md, D13
def build_together(
    own: Sequence[SequenceStart], build: Callable[[Sequence[SequenceStart]], list[BuiltSequence]], peers: Communicator
) -> tuple[list[BuiltSequence], list[SequenceCounts]]:
    """This rank's `own` sequences of a batch, and the counts of all ranks' in the order of ranks.

    What `build` raises here is raised after the other ranks have got a message; there it is an OtherRankError.
    BatchesClosedError if a rank has closed its batches.
    """
    if peers.size == 1:
        built = build(own)
        return built, [each.counts for each in built]
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
    statuses = [int(given[0]) for given in gathered]
    if FAILED in statuses:
        raise OtherRankError(f"rank {statuses.index(FAILED)} could not build its part of a batch; its log says why")
    if CLOSED in statuses:
        raise BatchesClosedError
    return built, [counts for given in gathered for counts in decode_counts(given[1:].tolist())]
