"""Attention on a CPU by whole matrices, where torch's fused kernel for a CPU, which multiplies small blocks, is slow.

In bfloat16, for training on short sequences, it has a fifth of the speed that products reach there. For one position
behind a cache, in float32, it takes a fifth to a half longer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 512
"""Positions up to which this is used: the probabilities are kept for the backward pass, and nothing is skipped."""


class WholeAttention(torch.autograd.Function):
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


def whole_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of (B, heads, T, head width) in bfloat16, causal or by booleans (B or 1, 1, T, T)."""
    batch, heads, length, _ = queries.shape
    visible = torch.ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    bias = torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)
    if mask is not None:
        bias = bias.expand(batch, heads, length, length).flatten(0, 1)
    attended: Tensor = WholeAttention.apply(queries, keys, values, bias)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return attended


def fits(queries: Tensor, keys: Tensor) -> bool:
    """Whether this is the faster way: in training, each position with its own key."""
    length = queries.shape[2]
    return torch.is_grad_enabled() and queries.requires_grad and 1 < length <= LONGEST and length == keys.shape[2]


def one_position_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one new position (B, heads, 1, head width) over (B, heads, S, head width), without gradients.

    `mask`: booleans (B or 1, 1, 1, S), true where it may look; None: everywhere.
    """
    scores = torch.matmul(keys, (queries * queries.shape[-1] ** -0.5).mT).mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.matmul(scores.softmax(dim=-1), values)
