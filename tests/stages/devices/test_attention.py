"""Each way to attend equals softmax(queries x keys^T / sqrt(width)) x values by whole matrices in float64."""

import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor

from stages.models.attention import Mask, attend, build_attention_mask
from tests.stages.devices import FLEX

LENGTH, HEADS, WIDTH = 300, 2, 64
Kind = Literal["sdpa", "flex"]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Of the norm of a difference, as a share of the norm. bf16 has 8 binary digits, and its kernels round three times."""


def pack_rows(*rows: tuple[int, ...]) -> Tensor:
    """Documents of these lengths in each row, with padding behind them (B, T)."""
    numbers = [[number for number, size in enumerate(row) for _ in range(size)] for row in rows]
    return torch.tensor([row + [-1] * (LENGTH - len(row)) for row in numbers])


DOCUMENTS = pack_rows((129, 171), (300,), (10, 20, 130))


def attend_exactly(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """In float64; `visible` (B or 1, 1, T, T)."""
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5
    attended: Tensor = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ values
    return attended


def draw(dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, and a gradient of what they give, all of this type's numbers, on the CPU."""
    torch.manual_seed(0)
    shape = (3, HEADS, LENGTH, WIDTH)
    *inputs, gradient = (torch.randn(shape).to(dtype) for _ in range(4))
    return inputs, gradient


def compute_figures(inputs: list[Tensor], gradient: Tensor, mask: Mask | None) -> list[Tensor]:
    """What is attended to, and the three gradients."""
    given = [tensor.detach().requires_grad_() for tensor in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        attended = attend(given[0], given[1], given[2], mask)
        return [attended.detach(), *torch.autograd.grad(attended, given, gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["causal", "sdpa", *FLEX])
def test_attention_and_its_gradients_are_those_of_whole_matrices(
    device: torch.device, kind: Literal["causal", "sdpa", "flex"], dtype: torch.dtype
) -> None:
    inputs, gradient = draw(dtype)
    wide = [tensor.double().requires_grad_() for tensor in inputs]
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    if kind != "causal":
        packed = build_attention_mask(DOCUMENTS, "sdpa")
        assert isinstance(packed, Tensor)
        visible = packed
    expected = attend_exactly(wide[0], wide[1], wide[2], visible)
    wanted = [expected.detach(), *torch.autograd.grad(expected, wide, gradient.double())]
    mask = None if kind == "causal" else build_attention_mask(DOCUMENTS.to(device), kind)
    found = compute_figures([tensor.to(device) for tensor in inputs], gradient.to(device), mask)
    for ours, exact in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        assert ours.device.type == device.type
        assert (ours.cpu().double() - exact).norm() <= TOLERANCE[dtype] * exact.norm()


def test_flex_attention_without_gradients_is_that_of_whole_matrices(device: torch.device) -> None:
    inputs, _ = draw(torch.float32)
    packed = build_attention_mask(DOCUMENTS, "sdpa")
    assert isinstance(packed, Tensor)
    queries, keys, values = inputs
    exact = attend_exactly(queries.double(), keys.double(), values.double(), packed)
    mask = build_attention_mask(DOCUMENTS.to(device), "flex")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is slow without a compiler
        found = attend(queries.to(device), keys.to(device), values.to(device), mask)
    assert (found.cpu().double() - exact).norm() <= TOLERANCE[torch.float32] * exact.norm()
