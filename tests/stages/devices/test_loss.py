"""The loss in chunks of positions, and its gradients, equal the formula's in float64 on the CPU."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.models.loss import LossSettings, compute_output_loss, compute_token_loss

POSITIONS, WIDTH, VOCABULARY = 700, 64, 1_003
CHUNKED = LossSettings(z_loss=1e-2, chunk_tokens=256)


def draw() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, the output layer's weight, and targets."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(POSITIONS, WIDTH), torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5
    return hidden, weight, torch.randint(0, VOCABULARY, (POSITIONS,))


WEIGHTS = torch.linspace(0.2, 1.8, POSITIONS)
"""Of the targets, where a batch is a mean over sequences of different lengths."""


def compute_exactly(*, weighted: bool) -> list[Tensor]:
    """Loss, cross entropies, gradients of hidden states and weight, by differentiation of the formula."""
    hidden, weight, targets = draw()
    wide = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    loss, entropies = compute_token_loss(
        F.linear(wide[0], wide[1]),
        targets,
        count=POSITIONS,
        settings=LossSettings(z_loss=1e-2),
        weights=WEIGHTS.double() if weighted else None,
    )
    return [loss.detach(), entropies, *torch.autograd.grad(loss, wide)]


@pytest.mark.parametrize("weighted", [False, True], ids=["tokens", "sequences"])
@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-5), (True, 1e-2)], ids=["float32", "bf16"])
def test_the_loss_in_chunks_and_its_gradients_are_the_formulas(
    device: torch.device, weighted: bool, bf16: bool, tolerance: float
) -> None:
    hidden, weight, targets = (tensor.to(device) for tensor in draw())
    given = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        loss, entropies = compute_output_loss(
            given[0],
            given[1],
            targets,
            count=POSITIONS,
            settings=CHUNKED,
            weights=WEIGHTS.to(device) if weighted else None,
        )
    found = [loss.detach(), entropies, *torch.autograd.grad(loss, given)]
    for ours, exact in zip(found, compute_exactly(weighted=weighted), strict=True):
        assert ours.dtype == torch.float32
        assert (ours.cpu().double() - exact).norm() <= tolerance * exact.norm()
