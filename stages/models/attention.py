"""Causal self-attention within documents: the kernels, and the masks that they take."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.cpu_attention import fits, one_position_attention, whole_attention

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    Mask = Tensor | BlockMask
else:
    Mask = Tensor  # flex attention takes a second to import, and few runs use it


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask | None) -> Tensor:
    """Attention of (B, heads, T, head width) over (B, heads, S, head width); without a mask causal, or one query.

    `mask` is what `attention_mask` gives, or booleans (B or 1, 1, T, S), true where a position may look.
    """
    if mask is not None and not isinstance(mask, Tensor):
        attended: Tensor = flex_kernel(queries.device.type)(queries, keys, values, block_mask=mask)
        return attended
    causal = mask is None and queries.shape[2] > 1
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            if fits(queries, keys):
                return whole_attention(queries, keys, values, mask)
            # at 128 to 256 positions the CPU's bfloat16 kernels take twice the time of the float32 ones
            queries, keys, values = queries.float(), keys.float(), values.float()
            return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal).bfloat16()
    if queries.shape[2] == 1 and queries.device.type == "cpu" and not torch.is_grad_enabled():
        return one_position_attention(queries, keys, values, mask)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)


def flex_kernel(device: str) -> Callable[..., Any]:
    """flex_attention as it is fused: by the compilation of the block that calls it, else by its own; eager on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    plain: Callable[..., Any] = flex_attention
    return plain if device == "cpu" or torch.compiler.is_compiling() else compiled_flex()


@cache
def compiled_flex() -> Callable[..., Any]:
    """One compiled function for all layers."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled


def attention_mask(documents: Tensor, kind: Literal["sdpa", "flex"]) -> Mask:
    """What `attend` takes for `documents` (B, T): a position looks backwards, within its own document.

    sdpa: booleans (B, 1, T, T). flex: a BlockMask, with which blocks of positions that see nothing cost nothing.
    """
    if kind == "sdpa":
        return (documents[:, :, None] == documents[:, None, :]).tril()[:, None]
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (documents[row, query] == documents[row, key])

    batch, length = documents.shape
    return create_block_mask(visible, batch, None, length, length, device=documents.device.type)
