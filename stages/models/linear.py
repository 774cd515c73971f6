"""float32 matrix products on a CPU: torch's, which are MKL's, or oneDNN's, where those are faster.

The mathematics is the same (float32, accumulated in float32); the order of the sums, and so the last bits, differ.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.processor import read_processor

Matmul = Literal["onednn", "torch"]


# Why: docs/decisions.md, D89
def select_training_matmul() -> Matmul:
    """Whose products are the faster ones in training on this processor.

    MKL makes little use of AMD's AVX-512. Elsewhere its products are as fast, and take transposed operands as they are.
    """
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "onednn" if wide and read_processor().vendor == "AuthenticAMD" else "torch"


PACKED_ROWS = 32
"""Rows of the products that packed weights are meant for; at 1 to 1,024 this order was never slower than another."""


class Linear(nn.Linear):
    """A linear layer without bias. `matmul` says whose float32 product it takes on a CPU."""

    matmul: Matmul = "torch"
    packed: Tensor | None = None
    """The weight in oneDNN's own order, for passes without gradients (`pack_weights`)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None and is_plain_float32(x) and not torch.is_grad_enabled():
            return multiply_onednn(x, self.packed)
        return apply_linear(x, self.weight, self.matmul)


def set_matmul_backend(module: nn.Module, matmul: Matmul) -> None:
    """Sets whose products all `Linear` layers of a module take; without oneDNN's operator torch's remain."""
    chosen: Matmul = matmul if is_onednn_available() else "torch"
    for part in module.modules():
        if isinstance(part, Linear):
            part.matmul = chosen


# Why: docs/decisions.md, D51
@torch.no_grad()
def pack_weights(module: nn.Module) -> None:
    """Keeps a copy of each layer's weights as oneDNN takes them, which otherwise puts them in order at every product.

    With a few positions at a time, as in generation, that is a third of the work. For layers whose matmul is onednn,
    in float32 on a CPU, and passes without gradients; weights that change afterwards are not seen.
    """
    for part in module.modules():
        if isinstance(part, Linear) and part.matmul == "onednn" and is_plain_float32(part.weight):
            part.packed = torch.ops.mkldnn._reorder_linear_weight(part.weight, PACKED_ROWS)


def is_onednn_available() -> bool:
    """Whether this build of torch brings oneDNN and the operator that is used here."""
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(a: Tensor, b: Tensor, matmul: Matmul) -> Tensor:
    """a (N, K) by b (M, K) to (N, M), outside of automatic differentiation."""
    if matmul == "onednn" and is_plain_float32(a) and is_plain_float32(b):
        return multiply_onednn(a, b)
    return F.linear(a, b)


def apply_linear(x: Tensor, weight: Tensor, matmul: Matmul) -> Tensor:
    """x (..., K) by weight (M, K) to (..., M)."""
    if matmul == "onednn" and is_plain_float32(x) and is_plain_float32(weight):
        product: Tensor = OneDNNLinear.apply(x, weight)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return product
    return F.linear(x, weight)


def is_plain_float32(x: Tensor) -> bool:
    """Whether a product of it on this device would be MKL's, in float32."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


# Why: docs/decisions.md, D17
def multiply_onednn(a: Tensor, b: Tensor) -> Tensor:
    """a (..., K) by b (M, K) to (..., M), by oneDNN. `b` may be a transposed view; of `a` a contiguous copy is made."""
    if not a.numel():  # a pass without targets; oneDNN has no kernel for nothing
        return a @ b.t()
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return result


class OneDNNLinear(torch.autograd.Function):
    """`F.linear` without bias and its two gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply_onednn(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = multiply_onednn(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = (
            compute_weight_gradient(gradient.flatten(0, -2), x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        )
        return of_x, of_weight


def compute_weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient (N, M) and x (N, K) to (M, K), contiguous."""
    if gradient.shape[1] <= x.shape[1]:
        return multiply_onednn(gradient.t(), x.t())
    # the first operand is copied in its transposed form: the narrower one costs less
    return multiply_onednn(x.t(), gradient.t()).t().contiguous()
