"""Which source fills each sequence, and with which of its documents: the data side of exact resume.

A run's data are sequences 0, 1, 2... of `context` positions; each is filled from one source. The source of the next
one is that which is furthest behind its share (error diffusion), so that every prefix of the run has the configured
shares, to within about one sequence. Shares of tokens count image tokens and no padding.

Each source's samples are read in `lanes` stripes of its endless shuffled order: its j-th sequence takes the next
samples of stripe j mod lanes. Sequences of one batch therefore do not depend on how many samples the others took, and
may be built apart, on any number of processes. What one needs to know to go on is `state`, a few numbers per stripe.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.data.order import shuffled
from stages.data.packing import PackedSequence, pack
from stages.data.progress import Progress, check_bad_samples
from stages.data.sample import BadSampleError, Document, Source


class Mixture:
    """The sequences of a run, batch by batch."""

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
    ) -> None:
        """`by`: what the shares count, "tokens" or "samples". `lanes`: the global batch size.

        `bad_samples_limit`: of each source.
        """
        self.sources, self.shares, self.by = sources, shares, by
        self.context, self.lanes, self.seed = context, lanes, seed
        self.bad_samples_limit = bad_samples_limit
        self.progress = [Progress(cursors=[0] * lanes) for _ in sources]

    def next_batch(self) -> list[PackedSequence]:
        """The next `lanes` sequences. DataError if more samples are bad than the limit allows."""
        batch = []
        for number in self.plan_batch():
            lane = self.progress[number].sequences % self.lanes
            sequence = pack(self.read_lane(number, lane), self.context, number)
            self.progress[number].cursors[lane] = sequence.next_cursor
            self.progress[number].count(sequence)
            batch.append(sequence)
        return batch

    def plan_batch(self) -> list[int]:
        """The source of each sequence of the next batch.

        It knows what was taken before the batch and expects of a sequence what the source's gave on average.
        """
        amounts = [float(self.amount(progress)) for progress in self.progress]
        expected = [self.expected_amount(progress) for progress in self.progress]
        plan = []
        for _ in range(self.lanes):
            total = sum(amounts)
            behind = [
                share * (total + more) - amount if share else float("-inf")
                for share, amount, more in zip(self.shares, amounts, expected, strict=True)
            ]
            number = behind.index(max(behind))
            amounts[number] += expected[number]
            plan.append(number)
        return plan

    def amount(self, progress: Progress) -> int:
        """What the shares count."""
        return progress.tokens if self.by == "tokens" else progress.samples

    def expected_amount(self, progress: Progress) -> float:
        """Of the source's next sequence."""
        if progress.sequences:
            return self.amount(progress) / progress.sequences
        return float(self.context) if self.by == "tokens" else 1.0

    def read_lane(self, number: int, lane: int) -> "Lane":
        return Lane(self, number, lane)

    def note_bad(self, number: int, index: int, reason: str) -> None:
        """Counts a bad sample once, however often it comes round; DataError beyond the limit."""
        if self.progress[number].note_bad(index):
            check_bad_samples(self.sources[number], self.progress[number], self.bad_samples_limit, reason)

    def state(self) -> list[dict[str, Any]]:
        """All that a later run needs to go on from here, as JSON."""
        return [progress.state() for progress in self.progress]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Takes up what `state` gave, for the same sources and the same batch size."""
        self.progress = [Progress.of(entry) for entry in state]


class Lane:
    """Documents of one stripe of a source, from its cursor on; iterating moves `cursor`, not the mixture's."""

    def __init__(self, mixture: Mixture, number: int, lane: int) -> None:
        self._mixture, self._number, self._lane = mixture, number, lane
        self.cursor = mixture.progress[number].cursors[lane]

    def next(self) -> Document:
        """The next good document; bad ones are noted and passed over."""
        mixture, source = self._mixture, self._mixture.sources[self._number]
        while True:
            position = self._lane + self.cursor * mixture.lanes
            index = shuffled(position, source.size, mixture.seed + 1_000_003 * self._number)
            self.cursor += 1
            try:
                return source.document(index, position)
            except BadSampleError as error:
                mixture.note_bad(self._number, index, str(error))
