"""Next-token cross entropy with z-loss, from logits or, in chunks of positions, from hidden states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.models.linear import Matmul, multiply

ChunkLoss = Callable[[Tensor, Tensor, Tensor | None, int, float], tuple[Tensor, Tensor, Tensor]]
"""As `compute_chunk_loss`."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """How the loss is computed, from a configuration to the output layer."""

    z_loss: float = 0.0
    """Weight of the mean squared logsumexp of the logits, which keeps them small."""
    chunk_tokens: int = 0
    """Positions whose logits are in memory at once; 0: all."""


def compute_token_loss(
    logits: Tensor, targets: Tensor, *, count: int, settings: LossSettings, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss to differentiate (a scalar) and the cross entropy of each token (N,), in nats, without gradient.

    Logits (N, V) in float32, targets (N,) without masked ones. The loss is the sum over tokens of
    weight * (cross entropy + z_loss * logsumexp^2) / count. `weights` (N,), float32; None: each is 1. `count`: the
    weights of the whole batch, of which these tokens may be a part. Where they are all of it and have no weights the
    gradient has the bits of open_lm's loss (`CrossEntropyLossWithZLoss`).
    """
    entropies = F.cross_entropy(logits, targets, reduction="none")
    loss = (apply_weights(entropies, weights) / count).sum()
    if settings.z_loss:
        squares = torch.logsumexp(logits, dim=-1).square()
        loss = loss + (apply_weights(squares, weights) / count).sum() * settings.z_loss
    return loss, entropies.detach()


def apply_weights(values: Tensor, weights: Tensor | None) -> Tensor:
    """Each value times its weight; without weights the values themselves."""
    return values if weights is None else values * weights


def compute_chunk_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None, count: int, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of float32 logits (N, V): their part of the loss, the cross entropies (N,), and the loss's gradient (N, V).

    d loss / d logit_v = weight (p_v (1 + 2 z logsumexp) - [v is the target]) / count, with p the softmax.
    """
    gradient = torch.softmax(logits, dim=-1)
    # the largest probability is exp(0) / sum(exp(logit - largest)): so the sum need not be computed again
    log_sums = logits.amax(dim=-1) - gradient.amax(dim=-1).log()
    wanted = targets[:, None]
    entropies = log_sums - logits.gather(1, wanted)[:, 0]
    if weights is None:
        loss = (entropies.sum() + z_loss * log_sums.square().sum()) / count
        gradient.mul_(((1 + 2 * z_loss * log_sums) / count)[:, None])
        gradient.scatter_add_(1, wanted, torch.full_like(wanted, -1 / count, dtype=gradient.dtype))
        return loss, entropies, gradient
    scales = weights / count
    loss = ((entropies + z_loss * log_sums.square()) * scales).sum()
    gradient.mul_(((1 + 2 * z_loss * log_sums) * scales)[:, None])
    gradient.scatter_add_(1, wanted, -scales[:, None])
    return loss, entropies, gradient


# Why: docs/decisions.md, D18
def compute_output_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    count: int,
    settings: LossSettings,
    weights: Tensor | None = None,
    matmul: Matmul = "torch",
    of_chunk: ChunkLoss = compute_chunk_loss,
) -> tuple[Tensor, Tensor]:
    """`compute_token_loss` of the logits that hidden states (N, D) and the output layer's weight (V, D) give.

    Logits of `settings.chunk_tokens` positions at a time are in memory, with their gradient, which is computed at once.
    The function is that of all at once; another order of sums changes its last bits. Under autocast the products are in
    its type, the loss in float32, and the chunks' gradients of the weight are added up in float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    options = ChunkOptions(weights, count, settings, matmul, of_chunk, dtype)
    with torch.autocast(device, enabled=False):
        answer: tuple[Tensor, Tensor] = OutputLoss.apply(hidden, weight, targets, options)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return answer


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """How `OutputLoss` goes about it; see `compute_output_loss`."""

    weights: Tensor | None
    count: int
    settings: LossSettings
    matmul: Matmul
    of_chunk: ChunkLoss
    dtype: torch.dtype


class OutputLoss(torch.autograd.Function):
    """Loss and gradients of the output layer in one pass over chunks of positions."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, options: ChunkOptions
    ) -> tuple[Tensor, Tensor]:
        needed = any(ctx.needs_input_grad)
        low = weight.to(options.dtype)
        of_hidden, of_weight = torch.empty_like(hidden), None
        loss, entropies = hidden.new_zeros((), dtype=torch.float32), []
        for start in range(0, len(hidden), options.settings.chunk_tokens):
            chunk = slice(start, start + options.settings.chunk_tokens)
            some = hidden[chunk].to(options.dtype)
            logits = multiply(some, low, options.matmul).float()
            scales = options.weights[chunk] if options.weights is not None else None
            part, entropy, gradient = options.of_chunk(
                logits, targets[chunk], scales, options.count, options.settings.z_loss
            )
            loss += part
            entropies.append(entropy)
            if needed:
                gradient = gradient.to(options.dtype)
                of_hidden[chunk] = multiply(gradient, low.t(), options.matmul)
                of_weight = accumulate_float32(of_weight, multiply(some.t(), gradient.t(), options.matmul))
        if needed:
            if of_weight is None:
                of_weight = weight.new_zeros(weight.shape[::-1])
            ctx.save_for_backward(of_hidden, of_weight)
        every = torch.cat(entropies) if entropies else hidden.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(every)
        return loss, every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight = ctx.saved_tensors
        # in place, as both are large and a second backward pass is refused then
        return of_hidden.mul_(scale), of_weight.mul_(scale).t().contiguous(), None, None


def accumulate_float32(total: Tensor | None, part: Tensor) -> Tensor:
    """The sum in float32; the first part becomes the total."""
    return total.add_(part) if total is not None else part.float()
