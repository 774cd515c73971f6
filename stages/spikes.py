"""Loss spikes: steps whose loss lies far above what the steps before it had."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

WINDOW = 128
"""Steps that a loss is compared with."""
FEWEST = 32
"""Steps before the first comparison: fewer say little about the scatter."""
NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
SMALLEST = 1e-3
"""Least deviation, as a share of the mean: where losses hardly scatter, a small step is no spike."""


class LossSpikes:
    """Looks at each loss once. Part of a checkpoint, so that an interrupted run finds the same spikes.

    Mean and deviation are the median and the scaled median absolute deviation, which the spikes themselves hardly move;
    they enter the window all the same, so that a loss that stays high becomes the normal one after half a window.
    """

    def __init__(self, sigmas: float) -> None:
        """`sigmas`: deviations above the mean that make a spike; 0: none is looked for."""
        self.sigmas = sigmas
        self.in_a_row = 0
        """Spikes up to and with the last loss, without another loss between them."""
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float) -> bool:
        """Whether this loss is a spike; it is then part of the window of the following ones."""
        spike = self.sigmas > 0 and len(self._losses) >= FEWEST and loss > self.threshold()
        self.in_a_row = self.in_a_row + 1 if spike else 0
        self._losses.append(loss)
        return spike

    def threshold(self) -> float:
        """The highest loss that is no spike."""
        middle = median(self._losses)
        deviation = NORMAL * median(abs(loss - middle) for loss in self._losses)
        return middle + self.sigmas * max(deviation, SMALLEST * abs(middle))

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"losses": list(self._losses), "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        self._losses = deque(state["losses"], maxlen=WINDOW)
        self.in_a_row = state["in_a_row"]
