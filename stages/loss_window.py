"""What a training run averages between two log lines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class LossWindow:
    """Means over the steps since the last log line. Part of a checkpoint, so that an interrupted run logs the same."""

    def __init__(self, source_names: Sequence[str]) -> None:
        self._names = source_names
        self._norm, self._rate = 0.0, 0.0
        self._losses: list[float] = []
        self._sums = [0.0] * len(source_names)
        self._counts = [0] * len(source_names)

    def add(self, loss: float, norm: float, rate: float) -> None:
        """One step."""
        self._losses.append(loss)
        self._norm, self._rate = norm, rate

    def add_entropies(self, entropies: Tensor, sources: Tensor) -> None:
        """Cross entropies of tokens (N,), and the number of the source of each (N,)."""
        size = len(self._names)
        sums = torch.bincount(sources, weights=entropies.double(), minlength=size).tolist()
        counts = torch.bincount(sources, minlength=size).tolist()
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)]
        self._counts = [old + new for old, new in zip(self._counts, counts, strict=True)]

    def flush(self) -> dict[str, Any]:
        """Means, and the window is empty again. `losses` has cross entropies by source, without z-loss."""
        losses = {
            name: total / count
            for name, total, count in zip(self._names, self._sums, self._counts, strict=True)
            if count
        }
        mean = math.fsum(self._losses) / len(self._losses)
        averages = {"loss": mean, "lr": self._rate, "grad_norm": self._norm, "losses": losses}
        self.restore(LossWindow(self._names).state())
        return averages

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"losses": self._losses, "sums": self._sums, "counts": self._counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        self._losses, self._sums, self._counts = list(state["losses"]), list(state["sums"]), list(state["counts"])
