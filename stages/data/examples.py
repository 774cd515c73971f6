"""The sampler of fine-tuning: which examples make each batch. Each is a sequence of its own, of any length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stages.data.order import ExampleOrder
from stages.data.packing import BuiltSequence, SequenceCounts, SequenceStart, join_documents
from stages.data.progress import DataState, SourceProgress
from stages.data.sample import BadSampleError, SampleSource
from stages.distributed import Communicator


class ExampleSource(SampleSource, Protocol):
    """A source that knows of each unread example what batches are made by."""

    def has_image(self, index: int) -> bool: ...

    def count_words(self, index: int) -> int:
        """About how long example `index` is, its image left out."""
        ...


@dataclass(frozen=True)
class ExamplePacker:
    """Builds single examples. `SequenceStart.cursor` is the number of the example."""

    source: SampleSource

    def build(self, start: SequenceStart) -> BuiltSequence:
        """The example; none, and the reason, if it cannot be used."""
        index = start.cursor
        try:
            document = self.source.read_document(index, index)
        except BadSampleError as error:
            return BuiltSequence(None, SequenceCounts(0, 0, 0, 0, 0, 0, (index,)), {index: str(error)})
        assert document is not None  # noqa: S101 - without a limit there is room
        sequence = join_documents([document], source=0)
        return BuiltSequence(sequence, SequenceCounts.from_sequence(sequence), {})


class ExampleSampler:
    """Each example once an epoch, in batches of at most `batch_size`. One that cannot be used is left out of its batch.

    A batch of which none can be used is a step that changes nothing.

    The state has one source, whose only cursor counts batches.
    """

    def __init__(self, source: ExampleSource, *, batch_size: int, seed: int, bad_samples_limit: int) -> None:
        """`batch_size`: of all ranks together."""
        self.source, self.bad_samples_limit = source, bad_samples_limit
        self.sources, self.packer = [source], ExamplePacker(source)
        marks = [source.has_image(index) for index in range(source.size)]
        self.order = ExampleOrder(marks, batch_size=batch_size, seed=seed)

    def create_state(self) -> DataState:
        """The state before the first batch."""
        return DataState([SourceProgress(cursors=[0])])

    def plan_batch(self, state: DataState) -> list[SequenceStart]:
        return [SequenceStart(0, 0, index) for index in self.order.select_examples(state.sources[0].cursors[0])]

    def select_own_part(self, plan: Sequence[SequenceStart], peers: Communicator) -> Sequence[SequenceStart]:
        """Every n-th by length, so that ranks have equally much to do."""
        by_length = sorted(plan, key=lambda start: self.source.count_words(start.cursor))
        return by_length[peers.rank :: peers.size]

    def record_batch(
        self,
        state: DataState,
        plan: Sequence[SequenceStart],  # noqa: ARG002 - each example knows its own number
        counts: Sequence[SequenceCounts],
        reasons: Mapping[int, Mapping[int, str]],
    ) -> None:
        """Adds the planned batch to `state`. See `Sampler`."""
        progress = state.sources[0]
        progress.cursors[0] += 1
        for each in counts:
            if each.samples:
                progress.add_counts(each)
            progress.record_bad_samples(self.source, each.bad, reasons.get(0, {}), limit=self.bad_samples_limit)
