"""A mixture read to sequences, without workers, ranks and tensors."""

from collections.abc import Sequence

from stages.data.batches import collect_bad_reasons
from stages.data.mixture import Mixture
from stages.data.packing import PackedSequence
from stages.data.progress import SourceProgress


class MixtureRun:
    """Batches of a mixture's sequences, and the state after the last one."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture, self.state = mixture, mixture.create_state()

    @property
    def progress(self) -> Sequence[SourceProgress]:
        return self.state.sources

    def take_batch(self) -> list[PackedSequence]:
        """The next sequences. DataError if more samples are bad than the limit allows."""
        plan = self.mixture.plan_batch(self.state)
        built = [self.mixture.packer.build(start) for start in plan]
        counts = [each.counts for each in built]
        self.mixture.record_batch(self.state, plan, counts, collect_bad_reasons(plan, built))
        return [each.sequence for each in built if each.sequence is not None]
