"""The loss in chunks of positions, and float32 products by oneDNN: the same functions in another order of sums."""

import math
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.config import LanguageModel
from stages.models.linear import Linear, Matmul, is_onednn_available, set_matmul_backend
from stages.models.loss import ChunkLoss, LossSettings, compute_chunk_loss, compute_output_loss, compute_token_loss
from stages.models.openlm import OpenLM

Figures = tuple[Tensor, Tensor, Tensor, Tensor]


def row_weights(n: int = 50) -> Tensor:
    """Of four rows with 30, 5, 5 and the other targets."""
    sizes = [min(30, n), min(5, n - 30), min(5, n - 35), n - 40]
    return torch.cat([torch.full((size,), 1 / size) for size in sizes])


def inputs(n: int = 50, width: int = 24, vocabulary: int = 70) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(n, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    return hidden, weight, torch.randint(0, vocabulary, (n,), generator=generator)


def reference(scale: float = 1.0, weights: Tensor | None = None) -> Figures:
    """In float64, by differentiation of the formula."""
    hidden, weight, targets = inputs()
    wide, heavy = hidden.double().requires_grad_(), weight.double().requires_grad_()
    exact = weights.double() if weights is not None else None
    loss, entropies = compute_token_loss(
        F.linear(wide, heavy), targets, count=200, settings=LossSettings(z_loss=1e-2), weights=exact
    )
    (loss * scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert wide.grad is not None
    assert heavy.grad is not None
    return loss.detach().float(), entropies.float(), wide.grad.float(), heavy.grad.float()


def chunked(
    chunk: int,
    matmul: Matmul,
    scale: float = 1.0,
    weights: Tensor | None = None,
    of_chunk: ChunkLoss = compute_chunk_loss,
) -> Figures:
    hidden, weight, targets = inputs()
    hidden.requires_grad_()
    weight.requires_grad_()
    loss, entropies = compute_output_loss(
        hidden,
        weight,
        targets,
        count=200,
        settings=LossSettings(z_loss=1e-2, chunk_tokens=chunk),
        weights=weights,
        matmul=matmul,
        of_chunk=of_chunk,
    )
    assert not entropies.requires_grad
    (loss * scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), entropies, hidden.grad, weight.grad


@pytest.mark.parametrize("matmul", ["torch", "onednn"])
@pytest.mark.parametrize("chunk", [1, 16, 50, 64])
def test_chunks_give_the_loss_and_the_gradients_of_all_positions_at_once(chunk: int, matmul: Matmul) -> None:
    for ours, expected in zip(chunked(chunk, matmul, scale=3.0), reference(scale=3.0), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("matmul", ["torch", "onednn"])
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_chunks_weigh_their_targets_as_all_at_once_do(chunk: int, matmul: Matmul) -> None:
    found = chunked(chunk, matmul, scale=3.0, weights=row_weights())
    for ours, expected in zip(found, reference(scale=3.0, weights=row_weights()), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_with_weights_the_loss_is_the_mean_over_rows_of_each_ones_mean() -> None:
    """Two rows, of one target and of three, and z-loss: written out with numbers.

    Logits (0, 0) give an entropy of log 2, logits (log 3, 0) for the first id log 4/3 and for the second log 4.
    """
    high = torch.tensor([math.log(3), 0.0])
    logits = torch.stack([torch.zeros(2), high, high, torch.zeros(2)])
    weights = torch.tensor([1.0, 1 / 3, 1 / 3, 1 / 3])
    loss, entropies = compute_token_loss(
        logits, torch.tensor([0, 0, 1, 1]), count=2, settings=LossSettings(z_loss=0.1), weights=weights
    )
    log2, log4 = math.log(2), math.log(4)
    first = log2 + 0.1 * log2**2
    second = ((math.log(4 / 3) + log4 + log2) + 0.1 * (2 * log4**2 + log2**2)) / 3
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    assert entropies.tolist() == pytest.approx([log2, math.log(4 / 3), log4, log2], rel=1e-6)


@pytest.mark.parametrize("weights", [None, row_weights()])
def test_a_chunk_is_traced_whole_by_the_compiler_with_and_without_weights(weights: Tensor | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        traced = torch.compile(compute_chunk_loss, backend="aot_eager", fullgraph=True)
        found = chunked(16, "torch", weights=weights, of_chunk=traced)
    for ours, expected in zip(found, chunked(16, "torch", weights=weights), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_under_autocast_the_loss_is_float32_and_near_the_exact_one() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, entropies, of_hidden, of_weight = chunked(16, "onednn")
    assert {tensor.dtype for tensor in (loss, entropies, of_hidden, of_weight)} == {torch.float32}
    for ours, expected in zip((loss, entropies, of_hidden, of_weight), reference(), strict=True):
        assert (ours - expected).norm() < 0.02 * expected.norm()


def test_extreme_logits_give_finite_figures() -> None:
    hidden = torch.tensor([[100.0, 0.0], [-100.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[30.0, 0.0], [-30.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss, entropies = compute_output_loss(
        hidden, weight, torch.tensor([1, 1]), count=2, settings=LossSettings(chunk_tokens=1)
    )
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert entropies.tolist() == [6_000.0, 0.0]
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, torch.tensor([[30.0, 0.0], [0.0, 0.0]]))


def test_no_positions_give_no_loss() -> None:
    hidden, weight, targets = inputs(0)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss, entropies = compute_output_loss(
        hidden, weight, targets, count=1, settings=LossSettings(z_loss=1e-4, chunk_tokens=8)
    )
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert (loss.item(), len(entropies)) == (0.0, 0)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_without_gradients_none_are_computed() -> None:
    hidden, weight, targets = inputs()
    loss, entropies = compute_output_loss(
        hidden, weight, targets, count=200, settings=LossSettings(z_loss=1e-2, chunk_tokens=16)
    )
    torch.testing.assert_close(loss, reference()[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(entropies, reference()[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "out"), [(24, 70), (70, 24), (1, 5), (64, 64)])
def test_onednns_products_are_those_of_a_linear_layer(width: int, out: int) -> None:
    assert is_onednn_available()
    layer = Linear(width, out)
    exact = layer.weight.detach().double().requires_grad_()
    set_matmul_backend(layer, "onednn")
    x = torch.randn(3, 7, width, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    for given, product in ((x, layer(x)), (wide, F.linear(wide, exact))):
        product.square().sum().backward()
        assert given.grad is not None
    assert x.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(x.grad, wide.grad.float(), rtol=1e-4, atol=1e-4)
    assert layer.weight.grad is not None
    assert layer.weight.grad.is_contiguous()
    assert exact.grad is not None
    torch.testing.assert_close(layer.weight.grad, exact.grad.float(), rtol=1e-4, atol=1e-4)


def test_onednn_is_left_alone_under_autocast_and_in_other_types() -> None:
    layer = Linear(8, 4)
    set_matmul_backend(layer, "onednn")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 8)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(2, 8).double()).dtype == torch.float64


def test_torchs_products_remain_where_they_are_asked_for() -> None:
    torch.manual_seed(0)
    model = OpenLM(LanguageModel(d_model=48, layers=2, heads=4, vocabulary=100))
    tokens = torch.randint(0, 100, (2, 12))
    before = model(tokens)
    set_matmul_backend(model, "onednn")
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-4)
    set_matmul_backend(model, "torch")
    assert torch.equal(model(tokens), before)
