"""The one object of a training that survives a restart."""

import base64
from dataclasses import dataclass, field
from typing import Any

import torch

from stages.checkpoint.files import Checkpoint
from stages.data.batches import BatchLoader
from stages.data.progress import DataState
from stages.training.metrics import LossSpikeDetector, LossWindow
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel


@dataclass
class TrainState:
    """Model, optimizer, position: nothing else survives a restart."""

    model: ParallelModel
    optimizer: AdamW
    batches: BatchLoader
    spikes: LossSpikeDetector
    step: int = 0
    """Finished steps of the schedule."""
    first_step: int = 0
    """Where this job began: above 0 where it continues its parent's schedule."""
    tokens: int = 0
    """Positions since the job's first step, padding included."""
    seconds: float = 0.0
    """Training time of this job that the state is the outcome of."""
    loss: float | None = None
    """Mean of the last logged steps."""
    taken_before: list[dict[str, int]] = field(init=False)
    """What the parent had taken of each source, where this job continues it."""
    window: LossWindow = field(init=False)

    def __post_init__(self) -> None:
        self.window = LossWindow(self.batches.source_names)
        self.taken_before = [progress.count_totals() for progress in self.batches.state.sources]

    def begin_here(self) -> None:
        """Makes a restored parent's position this job's beginning: its tokens and seconds are not this job's."""
        self.first_step, self.tokens, self.seconds, self.loss = self.step, 0, 0.0, None
        self.__post_init__()

    def count_taken(self) -> dict[str, dict[str, int]]:
        """What this job has taken of each source: sequences, samples, tokens, image tokens, images."""
        return {
            name: {unit: total - before[unit] for unit, total in progress.count_totals().items()}
            for name, progress, before in zip(
                self.batches.source_names, self.batches.state.sources, self.taken_before, strict=True
            )
        }

    def dump_state(self) -> dict[str, Any]:
        """The JSON side of a checkpoint: everything but weights and moments."""
        return {
            "step": self.step,
            "first_step": self.first_step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "window": self.window.dump_state(),
            "spikes": self.spikes.dump_state(),
            "taken_before": self.taken_before,
            "data": self.batches.state.dump_state(),
            "rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on exactly where the checkpoint was written; the model has its weights already (see start.py)."""
        state = checkpoint.state
        self.optimizer.restore(self.model.shard_moments(checkpoint.read_moments()))
        self.step, self.first_step, self.tokens = state["step"], state["first_step"], state["tokens"]
        self.seconds, self.loss, self.taken_before = state["seconds"], state["loss"], state["taken_before"]
        self.window.restore(state["window"])
        if "spikes" in state:  # checkpoints of the first version have none
            self.spikes.restore(state["spikes"])
        self.batches.restore(DataState.from_state(state["data"]))
        rng = bytearray(base64.b64decode(state["rng"]))
        torch.set_rng_state(torch.frombuffer(rng, dtype=torch.uint8))
