"""Causal self-attention within documents: `attend` and its masks first, then its kernels, then the cache of keys."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Mask = Tensor | BlockMask
else:
    Mask = Tensor  # flex attention takes a second to import, and few runs use it


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask | None) -> Tensor:
    """Attention of (B, heads, T, head width) over (B, heads, S, head width); without a mask causal, or one query.

    `mask` is what `build_attention_mask` gives, or booleans (B or 1, 1, T, S), true where a position may attend.
    """
    if mask is not None and not isinstance(mask, Tensor):
        attended: Tensor = select_flex_kernel(queries.device.type)(queries, keys, values, block_mask=mask)
        return attended
    causal = False
    if mask is None and queries.shape[2] > 1:  # decided here: torch's compiler hands no symbolic boolean on
        causal = True
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            if is_unfused_faster(queries, keys):
                return compute_unfused_attention(queries, keys, values, mask)
            # at 128 to 256 positions the CPU's bfloat16 kernels take twice the time of the float32 ones
            queries, keys, values = queries.float(), keys.float(), values.float()
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal).bfloat16()
    if queries.shape[2] == 1 and queries.device.type == "cpu" and not torch.is_grad_enabled():
        return compute_single_query_attention(queries, keys, values, mask)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)


def build_attention_mask(documents: Tensor, kind: Literal["sdpa", "flex"]) -> Mask:
    """What `attend` takes for `documents` (B, T): a position attends to earlier ones of its own document.

    Their numbers do not fall along a row, but for negative ones at its end (padding, which sees padding).
    sdpa: booleans (B, 1, T, T). flex: a BlockMask, with which blocks of positions that see nothing cost nothing.
    """
    if kind == "sdpa":
        return (documents[:, :, None] == documents[:, None, :]).tril()[:, None]
    return build_block_mask(documents)


FLEX_BLOCK = 128
"""Positions of a block of flex attention, on each side."""


# Why: docs/decisions.md, D86
def build_block_mask(documents: Tensor) -> "BlockMask":
    """`build_attention_mask` for flex attention, from the first and last document of each block of positions.

    torch's `create_block_mask` gives the same blocks by way of all (B, T, T) pairs.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = documents.shape[1]
    padding = -length % FLEX_BLOCK
    rising = F.pad(documents.masked_fill(documents < 0, length), (0, padding), value=length + 1)
    blocks = rising.view(len(documents), -1, FLEX_BLOCK)
    first, last = blocks[:, None, :, 0], blocks[:, None, :, -1]
    place = torch.arange(blocks.shape[1], device=documents.device)
    # in both, rows are blocks of queries and columns blocks of keys: (B, 1, blocks, blocks)
    seen = (place[:, None] >= place) & (last[..., None, :] >= first[..., :, None])
    whole = (place[:, None] > place) & (first[..., None, :] == last[..., :, None])

    def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    return BlockMask.from_kv_blocks(
        *list_blocks(seen & ~whole),
        *list_blocks(whole),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=visible,
        seq_lengths=(length, length),
    )


def list_blocks(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys are chosen (..., blocks), and the numbers of these before the others' (..., blocks,
    blocks), as flex attention takes them."""
    numbers = chosen.byte().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(dim=-1, dtype=torch.int32), numbers.int()


def build_padding_mask(visible: Tensor) -> Tensor:
    """Booleans (B, 1, T, T) for rows of which `visible` (B, T) says what is not padding: causal, padding is masked.

    A padding position sees itself alone: a row with nothing to see would be NaN.
    """
    length = visible.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=visible.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=visible.device)
    return ((causal & visible[:, None, :]) | itself)[:, None]


# Flex attention on a GPU: it is one fused kernel only where it is compiled.


def select_flex_kernel(device: str) -> Callable[..., Any]:
    """flex_attention as it is fused: by the compilation of the block that calls it, else by its own; eager on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Callable[..., Any] = flex_attention
    return plain if device == "cpu" or torch.compiler.is_compiling() else compile_flex_attention()


@cache
def compile_flex_attention() -> Callable[..., Any]:
    """One compiled function for all layers."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled


# Attention on a CPU by whole matrices, where torch's fused kernel for a CPU, which multiplies small blocks, is slow.
#
# In bfloat16, for training on short sequences, it has a fifth of the speed that products reach there. For one
# position behind a cache, in float32, it takes a fifth to a half longer.

MAX_UNFUSED_LENGTH = 512
"""Most positions: the probabilities are kept for the backward pass, and no block is skipped."""


def is_unfused_faster(queries: Tensor, keys: Tensor) -> bool:
    """Whether whole matrices are faster: in training, where each position has a key of its own."""
    length = queries.shape[2]
    return (
        torch.is_grad_enabled()
        and queries.requires_grad
        and 1 < length <= MAX_UNFUSED_LENGTH
        and length == keys.shape[2]
    )


def compute_unfused_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of (B, heads, T, head width) in bfloat16, causal or by booleans (B or 1, 1, T, T)."""
    batch, heads, length, _ = queries.shape
    visible = torch.ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)
    if mask is not None:
        bias = bias.expand(batch, heads, length, length).flatten(0, 1)
    attended: Tensor = UnfusedAttention.apply(queries, keys, values, bias)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return attended


class UnfusedAttention(torch.autograd.Function):
    """softmax(queries x keys^T / sqrt(head width) + bias) x values, of (B, heads, T, head width) in bfloat16.

    `bias` is float32, (T, T) or (B * heads, T, T). As in the fused kernel the scores and their softmax are float32 and
    the probabilities that weigh the values are bfloat16; so are the gradients of the probabilities.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (queries, keys, values))
        ctx.scale = queries.shape[-1] ** -0.5
        scores = torch.baddbmm(bias, q.float(), k.float().mT, alpha=ctx.scale)
        probabilities = scores.softmax(dim=-1).bfloat16()
        ctx.save_for_backward(q, k, v, probabilities)
        return torch.bmm(probabilities, v).view_as(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probabilities = ctx.saved_tensors
        flat = gradient.flatten(0, 1)
        of_values = torch.bmm(probabilities.mT, flat)
        of_probabilities = torch.bmm(flat, v.mT).float()
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities.float(), -1, torch.float32)
        of_scores = of_scores.mul_(ctx.scale).bfloat16()
        of_queries, of_keys = torch.bmm(of_scores, k), torch.bmm(of_scores.mT, q)
        return of_queries.view_as(gradient), of_keys.view_as(gradient), of_values.view_as(gradient), None


def compute_single_query_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one new position (B, heads, 1, head width) over (B, heads, S, head width), without gradients.

    `mask`: booleans (B or 1, 1, 1, S), true where it may attend; None: everywhere.
    """
    scores = torch.matmul(keys, (queries * queries.shape[-1] ** -0.5).mT).mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.matmul(scores.softmax(dim=-1), values)


# Keys and values of earlier positions are kept, so that a new position costs one position.


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
            self._keys.append(copy_with_capacity(keys[:, :, :0], max(self.capacity, keys.shape[2])))
            self._values.append(copy_with_capacity(values[:, :, :0], max(self.capacity, values.shape[2])))
            self._filled.append(0)
        start = self._filled[layer]
        end = start + keys.shape[2]
        if end > (capacity := self._keys[layer].shape[2]):
            capacity = max(end, 2 * capacity)
            self._keys[layer] = copy_with_capacity(self._keys[layer][:, :, :start], capacity)
            self._values[layer] = copy_with_capacity(self._values[layer][:, :, :start], capacity)
        self._keys[layer][:, :, start:end] = keys
        self._values[layer][:, :, start:end] = values
        self._filled[layer] = end
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Keeps some rows of the batch only; `rows`: their numbers (N,), on the cache's device."""
        for layer, end in enumerate(self._filled):
            capacity = self._keys[layer].shape[2]
            self._keys[layer] = copy_with_capacity(self._keys[layer][:, :, :end], capacity, rows)
            self._values[layer] = copy_with_capacity(self._values[layer][:, :, :end], capacity, rows)


def copy_with_capacity(held: Tensor, capacity: int, rows: Tensor | None = None) -> Tensor:
    """A tensor (B, heads, capacity, head width) that begins with what `held` (B, heads, T, head width) holds."""
    held = held if rows is None else held.index_select(0, rows)
    batch, heads, length, width = held.shape
    room = held.new_empty(batch, heads, capacity, width)
    room[:, :, :length] = held
    return room
