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
from stages.data.progress import SequenceCounts, SourceProgress, check_bad_samples
from stages.data.sample import SampleSource
from stages.data.workers import BuiltSequence, SequenceBuilder, SequenceStart

SHUFFLE_SHARDS = 16


class Mixture:
    """The plan of a run's sequences, batch by batch, and the account of what they took."""

    def __init__(
        self,
        sources: Sequence[SampleSource],
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
        self.context, self.stripes, self.bad_samples_limit = context, lanes, bad_samples_limit
        self.builder = SequenceBuilder(
            sources,
            [
                ShardOrder(source.shard_sizes, window=shuffle_shards, seed=seed + 1_000_003 * number)
                for number, source in enumerate(sources)
            ],
            context=context,
            stripes=lanes,
            most_documents=1 if packing == "padded" else None,
            bad_samples_limit=bad_samples_limit,
        )
        self.progress = [SourceProgress(cursors=[0] * lanes) for _ in sources]

    def take_batch(self) -> list[PackedSequence]:
        """The next `lanes` sequences, built here. DataError if more samples are bad than the limit allows."""
        places = self.plan_batch()
        built = [self.builder.build(place) for place in places]
        self.record_batch(places, [each.counts for each in built], self.report_new_bad_samples(places, built))
        return [each.sequence for each in built if each.sequence is not None]

    def plan_batch(self) -> list[SequenceStart]:
        """Where each sequence of the next batch begins; no two of a batch begin in the same stripe of a source.

        The plan knows what was taken before the batch and expects of a sequence what the source's gave on average.
        """
        amounts = [float(self.count_amount(progress)) for progress in self.progress]
        expected = [self.estimate_next_amount(progress) for progress in self.progress]
        sequences = [progress.sequences for progress in self.progress]
        plan = []
        for _ in range(self.stripes):
            total = sum(amounts)
            behind = [
                share * (total + more) - amount if share else float("-inf")
                for share, amount, more in zip(self.shares, amounts, expected, strict=True)
            ]
            # Why: docs/decisions.md, D11
            number = behind.index(max(behind))
            lane = sequences[number] % self.stripes
            plan.append(SequenceStart(number, lane, self.progress[number].cursors[lane]))
            amounts[number] += expected[number]
            sequences[number] += 1
        return plan

    def count_amount(self, progress: SourceProgress) -> int:
        """What the shares count."""
        return progress.tokens if self.by == "tokens" else progress.samples

    def estimate_next_amount(self, progress: SourceProgress) -> float:
        """Of the source's next sequence."""
        if progress.sequences:
            return self.count_amount(progress) / progress.sequences
        return float(self.context) if self.by == "tokens" else 1.0

    def report_new_bad_samples(
        self, places: Iterable[SequenceStart], built: Iterable[BuiltSequence]
    ) -> dict[tuple[int, int], str]:
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

    def record_batch(
        self, places: Iterable[SequenceStart], counts: Iterable[SequenceCounts], reasons: Mapping[tuple[int, int], str]
    ) -> None:
        """Takes account of the planned batch: after that the next one can be planned.

        A bad sample counts once, however often it comes round; DataError beyond the limit. `reasons`: for its message,
        as far as they are known in this process.
        """
        for place, taken in zip(places, counts, strict=True):
            progress, source = self.progress[place.source], self.sources[place.source]
            for index in taken.bad:
                if progress.record_bad(index):
                    reason = reasons.get((place.source, index), f"sample {index}; the log of another rank says why")
                    check_bad_samples(source, progress, self.bad_samples_limit, reason)
            progress.cursors[place.stripe] = taken.next_cursor
            progress.add_counts(taken)

    def dump_state(self) -> list[dict[str, Any]]:
        """All that a later run needs to go on from here, as JSON."""
        return [progress.dump_state() for progress in self.progress]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Takes up what `state` gave, for the same sources and the same batch size."""
        self.progress = [SourceProgress.from_state(entry) for entry in state]
