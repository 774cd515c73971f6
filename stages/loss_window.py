"""What a training run averages between two log lines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


class LossWindow:
    """Means over the steps since the last log line. Part of a checkpoint, so that an interrupted run logs the same."""

    def __init__(self, source_names: Sequence[str]) -> None:
        self._names = source_names
        self._norm, self._rate = 0.0, 0.0
        self._losses: list[float] = []
        self._sums = [0.0] * len(source_names)
        self._counts = [0] * len(source_names)
        self._spikes = 0

    def add(self, loss: float, norm: float, rate: float, *, spike: bool = False) -> None:
        """One step: its loss, gradient norm and learning rate, and whether the loss is a spike."""
        self._losses.append(loss)
        self._norm, self._rate = norm, rate
        self._spikes += spike

    def add_entropies(self, sums: Sequence[float], counts: Sequence[int]) -> None:
        """Of each source: the sum of a step's cross entropies, and how many they are."""
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)]
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def flush(self) -> dict[str, Any]:
        """Means, and the window is empty again. `losses` has cross entropies by source, without z-loss; `grad_norm` and
        `lr` are the last step's."""
        losses = {
            name: total / count
            for name, total, count in zip(self._names, self._sums, self._counts, strict=True)
            if count
        }
        mean = math.fsum(self._losses) / len(self._losses)
        averages = {
            "loss": mean, "lr": self._rate, "grad_norm": self._norm, "losses": losses, "spikes": self._spikes,
        }  # fmt: skip
        self.restore(LossWindow(self._names).state())
        return averages

    def state(self) -> dict[str, Any]:
        """As JSON; a copy, which a writer may keep."""
        return {
            "losses": list(self._losses),
            "sums": list(self._sums),
            "counts": list(self._counts),
            "spikes": self._spikes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        self._losses, self._sums, self._counts = list(state["losses"]), list(state["sums"]), list(state["counts"])
        self._spikes = state.get("spikes", 0)
