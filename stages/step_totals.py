"""The numbers of one step, summed over its micro-batches on the device and over the ranks on the host.

They leave the device once a step: a GPU that is asked for a number has to finish all work that was queued before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.distributed import World


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What all ranks know of a step, equal on each."""

    loss: float
    """One mean over the targets of the whole batch, z-loss included."""
    norm: float
    """Of the whole gradient, before clipping."""
    entropies: Sequence[float]
    """Sum of the cross entropies of each source's targets."""
    targets: Sequence[int]
    """How many these are."""
    stop: bool
    """Whether any rank was asked to stop."""
    checkpoint_due: bool
    """Whether the first rank's clock asks for a checkpoint."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class StepTotals:
    """Sums in float64 over a step's micro-batches, on the device."""

    def __init__(self, sources: int, device: torch.device) -> None:
        self._numbers = torch.arange(sources, device=device)[:, None]
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._entropies = torch.zeros(sources, dtype=torch.float64, device=device)
        self._targets = torch.zeros(sources, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, entropies: Tensor, sources: Tensor) -> None:
        """A micro-batch: its part of the loss, cross entropies (M,) and the number of the source of each (M,)."""
        ours = self._numbers == sources  # no bincount, whose sums on a GPU have no fixed order
        self._loss += loss.detach()
        self._entropies += torch.where(ours, entropies.double(), 0.0).sum(dim=1)
        self._targets += ours.sum(dim=1)

    def agree(self, norm: Tensor, world: World, *, stop: bool, checkpoint_due: bool) -> StepOutcome:
        """The step's outcome over all ranks; waits for the device and for the other ranks. `norm` is equal on all."""
        parts = [self._loss[None], norm.detach().double()[None], self._entropies, self._targets]
        loss, own_norm, *sums = torch.cat(parts).tolist()
        flags = [float(stop), float(checkpoint_due and world.first)]
        loss, norm_sum, stops, due, *sums = world.sum([loss, own_norm, *flags, *sums])
        half = len(sums) // 2
        return StepOutcome(
            loss=loss,
            norm=norm_sum / world.size,
            entropies=sums[:half],
            targets=[round(count) for count in sums[half:]],
            stop=stops > 0,
            checkpoint_due=due > 0,
        )
