"""The sampler of pre-training: which source fills each sequence, and with which of its documents.

A run's data are sequences 0, 1, 2... of `context` positions. One source fills each: the one that is furthest behind its
share (error diffusion). So every prefix of the run has the configured shares, to within about one sequence. Shares of
tokens count image tokens and no padding.

Each source is read in `stripes` stripes of its endless shuffled order: its j-th sequence takes the next samples of
stripe j mod `stripes`. So the sequences of a batch do not depend on how many samples the others take, and any number of
processes can build them. A source that an earlier run has read may go on behind what that run has read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from stages.data.order import ShardOrder
from stages.data.packing import SequenceCounts, SequencePacker, SequenceStart
from stages.data.progress import DataState, SourceProgress
from stages.data.sample import SampleSource
from stages.distributed import Communicator

SHUFFLE_SHARDS = 16


def compute_order_seed(seed: int, number: int) -> int:
    """Of the order of a run's source `number`; `seed`: the run's."""
    return seed + 1_000_003 * number


# Why: docs/decisions.md, D76
@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuedOrder:
    """The order in which an earlier run has read a source, and the first position that it left unread.

    Both runs have the same samples in the same order, so what lies behind `position` is new until the order's next
    pass begins.
    """

    seed: int
    """Of the order (`compute_order_seed`)."""
    shuffle_shards: int
    position: int

    def compute_cursors(self, stripes: int) -> list[int]:
        """Where each of so many stripes begins, so that together they hold the positions from `position` on."""
        return [max(0, -(-(self.position - stripe) // stripes)) for stripe in range(stripes)]


def compute_next_position(cursors: Sequence[int]) -> int:
    """The first position behind all that was read, of stripes that stand at `cursors`."""
    stripes = len(cursors)
    return max((stripe + (cursor - 1) * stripes + 1 for stripe, cursor in enumerate(cursors) if cursor), default=0)


NOTHING_CONTINUED: Mapping[str, ContinuedOrder] = MappingProxyType({})


class Mixture:
    """Plans the sequences of each batch from what was taken before it."""

    def __init__(
        self,
        sources: Sequence[SampleSource],
        shares: Sequence[float],
        *,
        by: str,
        context: int,
        stripes: int,
        seed: int,
        bad_samples_limit: int,
        packing: str = "packed",
        shuffle_shards: int = SHUFFLE_SHARDS,
        continued: Mapping[str, ContinuedOrder] = NOTHING_CONTINUED,
    ) -> None:
        """`by`: what the shares count, "tokens" or "samples". `stripes`: the global batch size.

        `bad_samples_limit`: of each source. `packing`: as many documents to a sequence as fit ("packed"), or one
        ("padded"). `shuffle_shards`: see `ShardOrder`. `continued`: sources, by name, that go on in the order of an
        earlier run; the others begin at the start of an order of this run's own.
        """
        self.sources, self.shares, self.by = sources, shares, by
        self.context, self.stripes, self.bad_samples_limit = context, stripes, bad_samples_limit
        own = [
            ContinuedOrder(seed=compute_order_seed(seed, number), shuffle_shards=shuffle_shards, position=0)
            for number in range(len(sources))
        ]
        self.orders = [continued.get(source.name, order) for source, order in zip(sources, own, strict=True)]
        self.packer = SequencePacker(
            sources,
            [
                ShardOrder(source.shard_sizes, window=order.shuffle_shards, seed=order.seed)
                for source, order in zip(sources, self.orders, strict=True)
            ],
            context=context,
            stripes=stripes,
            most_documents=1 if packing == "padded" else None,
            bad_samples_limit=bad_samples_limit,
        )

    def create_state(self) -> DataState:
        """The state before the first batch."""
        return DataState([SourceProgress(cursors=order.compute_cursors(self.stripes)) for order in self.orders])

    def plan_batch(self, state: DataState) -> list[SequenceStart]:
        """Where each sequence of the next batch begins. No two of a batch begin in the same stripe of a source.

        How much a sequence will take is not known before it is built: the plan expects the source's average.
        """
        amounts = [float(self._count_amount(progress)) for progress in state.sources]
        expected = [self._estimate_next_amount(progress) for progress in state.sources]
        sequences = [progress.sequences for progress in state.sources]
        plan = []
        for _ in range(self.stripes):
            total = sum(amounts)
            behind = [
                share * (total + more) - amount if share else float("-inf")
                for share, amount, more in zip(self.shares, amounts, expected, strict=True)
            ]
            # Why: docs/decisions.md, D11
            number = behind.index(max(behind))
            stripe = sequences[number] % self.stripes
            plan.append(SequenceStart(number, stripe, state.sources[number].cursors[stripe]))
            amounts[number] += expected[number]
            sequences[number] += 1
        return plan

    def select_own_part(self, plan: Sequence[SequenceStart], peers: Communicator) -> Sequence[SequenceStart]:
        """The sequences that this rank builds: of n those from rank * n / size on."""
        first, end = (len(plan) * rank // peers.size for rank in (peers.rank, peers.rank + 1))
        return plan[first:end]

    def record_batch(
        self,
        state: DataState,
        plan: Sequence[SequenceStart],
        counts: Sequence[SequenceCounts],
        reasons: Mapping[int, Mapping[int, str]],
    ) -> None:
        """Adds the planned batch to `state`. `counts`: of each sequence of `plan`. See `Sampler`."""
        for start, taken in zip(plan, counts, strict=True):
            progress, source = state.sources[start.source], self.sources[start.source]
            known = reasons.get(start.source, {})
            progress.record_bad_samples(source, taken.bad, known, limit=self.bad_samples_limit)
            progress.cursors[start.stripe] = taken.next_cursor
            progress.add_counts(taken)

    def _count_amount(self, progress: SourceProgress) -> int:
        return progress.tokens if self.by == "tokens" else progress.samples

    def _estimate_next_amount(self, progress: SourceProgress) -> float:
        if progress.sequences:
            return self._count_amount(progress) / progress.sequences
        return float(self.context) if self.by == "tokens" else 1.0
