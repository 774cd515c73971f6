"""Keys and values of the positions that a model has seen, so that the next one costs one position."""

import torch
from torch import Tensor


class KeyValueCache:
    """A pair of (B, heads, capacity, head width) for each layer, filled from the left.

    `capacity`: positions to make room for at once; a cache that is outgrown doubles.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._filled: list[int] = []

    @property
    def length(self) -> int:
        """Positions that every layer holds."""
        return self._filled[-1] if self._filled else 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends a layer's new positions (B, heads, T, head width) and returns all of them, as views."""
        if layer == len(self._keys):
            self._keys.append(roomy(keys[:, :, :0], max(self.capacity, keys.shape[2])))
            self._values.append(roomy(values[:, :, :0], max(self.capacity, values.shape[2])))
            self._filled.append(0)
        start = self._filled[layer]
        end = start + keys.shape[2]
        if end > (capacity := self._keys[layer].shape[2]):
            capacity = max(end, 2 * capacity)
            self._keys[layer] = roomy(self._keys[layer][:, :, :start], capacity)
            self._values[layer] = roomy(self._values[layer][:, :, :start], capacity)
        self._keys[layer][:, :, start:end] = keys
        self._values[layer][:, :, start:end] = values
        self._filled[layer] = end
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows of the batch only; `rows`: their numbers (N,), on the cache's device."""
        for layer, end in enumerate(self._filled):
            capacity = self._keys[layer].shape[2]
            self._keys[layer] = roomy(self._keys[layer][:, :, :end], capacity, rows)
            self._values[layer] = roomy(self._values[layer][:, :, :end], capacity, rows)


def roomy(held: Tensor, capacity: int, rows: Tensor | None = None) -> Tensor:
    """A tensor (B, heads, capacity, head width) that begins with what `held` (B, heads, T, head width) holds."""
    held = held if rows is None else held.index_select(0, rows)
    batch, heads, length, width = held.shape
    room = held.new_empty(batch, heads, capacity, width)
    room[:, :, :length] = held
    return room


def padding_mask(visible: Tensor) -> Tensor:
    """Booleans (B, 1, T, T) for rows of which `visible` (B, T) says what is not padding: causal, no padding looked at.

    A padding position sees itself alone: a row with nothing to see would be NaN.
    """
    length = visible.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=visible.device)
    return ((causal & visible[:, None, :]) | itself)[:, None]
