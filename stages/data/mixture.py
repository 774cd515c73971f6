"""Which source fills each sequence, and with which of its documents: the data side of exact resume.

A run's data are sequences 0, 1, 2... of `context` positions; each is filled from one source. The source of the next
one is that which is furthest behind its share (error diffusion), so that every prefix of the run has the configured
shares, to within about one sequence. Shares of tokens count image tokens and no padding.

Each source's samples are read in `lanes` stripes of its endless shuffled order: its j-th sequence takes the next
samples of stripe j mod lanes. Sequences of one batch therefore do not depend on how many samples the others took, and
may be built apart, on any number of processes. What one needs to know to go on is `state`, a few numbers per stripe.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.data.order import ShardOrder
from stages.data.packing import PackedSequence
from stages.data.progress import Progress, SequenceCounts, check_bad_samples
from stages.data.sample import Source
from stages.data.workers import Built, Place, SequenceBuilder

SHUFFLE_SHARDS = 16


class Mixture:
    """The plan of a run's sequences, batch by batch, and the account of what they took."""

    def __init__(
        self,
        sources: Sequence[Source],
        shares: Sequence[float],
        *,
        by: str,
        context: int,
        lanes: int,
        seed: int,
        bad_samples_limit: int,
        packing: str = "packed",
        shuffle_shards: int = SHUFFLE_SHARDS,
    ) -> None:
        """`by`: what the shares count, "tokens" or "samples". `lanes`: the global batch size.

        `bad_samples_limit`: of each source. `packing`: as many documents to a sequence as fit ("packed"), or one
        ("padded"). `shuffle_shards`: see `ShardOrder`.
        """
        self.sources, self.shares, self.by = sources, shares, by
        self.context, self.lanes, self.bad_samples_limit = context, lanes, bad_samples_limit
        self.builder = SequenceBuilder(
            sources,
            [
                ShardOrder(source.shard_sizes, window=shuffle_shards, seed=seed + 1_000_003 * number)
                for number, source in enumerate(sources)
            ],
            context=context,
            lanes=lanes,
            most_documents=1 if packing == "padded" else None,
            bad_samples_limit=bad_samples_limit,
        )
        self.progress = [Progress(cursors=[0] * lanes) for _ in sources]

    def next_batch(self) -> list[PackedSequence]:
        """The next `lanes` sequences, built here. DataError if more samples are bad than the limit allows."""
        places = self.plan_batch()
        built = [self.builder.build(place) for place in places]
        self.note_batch(places, [each.counts for each in built], self.new_bad_samples(places, built))
        return [each.sequence for each in built if each.sequence is not None]

    def plan_batch(self) -> list[Place]:
        """Where each sequence of the next batch begins; no two of a batch begin in the same stripe of a source.

        The plan knows what was taken before the batch and expects of a sequence what the source's gave on average.
        """
        amounts = [float(self.amount(progress)) for progress in self.progress]
        expected = [self.expected_amount(progress) for progress in self.progress]
        sequences = [progress.sequences for progress in self.progress]
        plan = []
        for _ in range(self.lanes):
            total = sum(amounts)
            behind = [
                share * (total + more) - amount if share else float("-inf")
                for share, amount, more in zip(self.shares, amounts, expected, strict=True)
            ]
            number = behind.index(max(behind))
            lane = sequences[number] % self.lanes
            plan.append(Place(number, lane, self.progress[number].cursors[lane]))
            amounts[number] += expected[number]
            sequences[number] += 1
        return plan

    def amount(self, progress: Progress) -> int:
        """What the shares count."""
        return progress.tokens if self.by == "tokens" else progress.samples

    def expected_amount(self, progress: Progress) -> float:
        """Of the source's next sequence."""
        if progress.sequences:
            return self.amount(progress) / progress.sequences
        return float(self.context) if self.by == "tokens" else 1.0

    def new_bad_samples(self, places: Iterable[Place], built: Iterable[Built]) -> dict[tuple[int, int], str]:
        """Why samples that were not met before are bad, by (source, number); a line on stderr tells of each."""
        new = {
            (place.source, index): reason
            for place, each in zip(places, built, strict=True)
            for index, reason in each.bad.items()
            if index not in self.progress[place.source].bad
        }
        for (source, _), reason in new.items():
            print(f"data set {self.sources[source].name!r}: skipped: {reason}", file=sys.stderr)
        return new

    def note_batch(
        self, places: Iterable[Place], counts: Iterable[SequenceCounts], reasons: Mapping[tuple[int, int], str]
    ) -> None:
        """Takes account of the planned batch: after that the next one can be planned.

        A bad sample counts once, however often it comes round; DataError beyond the limit. `reasons`: for its message,
        as far as they are known in this process.
        """
        for place, taken in zip(places, counts, strict=True):
            progress, source = self.progress[place.source], self.sources[place.source]
            for index in taken.bad:
                if progress.note_bad(index):
                    reason = reasons.get((place.source, index), f"sample {index}; the log of another rank says why")
                    check_bad_samples(source, progress, self.bad_samples_limit, reason)
            progress.cursors[place.lane] = taken.next_cursor
            progress.count(taken)

    def state(self) -> list[dict[str, Any]]:
        """All that a later run needs to go on from here, as JSON."""
        return [progress.state() for progress in self.progress]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Takes up what `state` gave, for the same sources and the same batch size."""
        self.progress = [Progress.of(entry) for entry in state]
