"""Next-token cross entropy with z-loss."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows


def token_loss(logits: Tensor, targets: Tensor, *, count: int, z_loss: float) -> tuple[Tensor, Tensor]:
    """The loss to differentiate (a scalar) and the cross entropy of each token (N,), in nats, without gradient.

    Logits (N, V) in float32, targets (N,) without masked ones. `count`: tokens of the whole batch, of which these may
    be a part. Where they are all of them the gradient has the bits of open_lm's loss (`CrossEntropyLossWithZLoss`):
    mean cross entropy + z_loss * mean(logsumexp^2).
    """
    entropies = F.cross_entropy(logits, targets, reduction="none")
    loss = (entropies / count).sum()
    if z_loss:
        loss = loss + (torch.logsumexp(logits, dim=-1).square() / count).sum() * z_loss
    return loss, entropies.detach()
