"""Our model and optimizer beside the plain formulas, on whatever machine runs this: equal bit for bit."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.config import LanguageModel
from tests.stages.models.openlm_checkout import Case
from tests.stages.models.openlm_reference import batches, initial_model, train

CASE = Case("formulas", d_model=48, layers=2, heads=4, vocabulary=200, context=40, batch=3, steps=5, warmup=2)
Weights = dict[str, Tensor]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, None, 1e-5)


def rotated(x: Tensor) -> Tensor:
    """(B, T, heads, width): the two halves of a head are the parts of complex numbers, written out."""
    length, width = x.shape[1], x.shape[3]
    frequencies = 1.0 / (10_000 ** (torch.arange(0, width, 2).float() / width))
    angles = torch.arange(length).float()[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)[None, :, None, :]
    first, second = x.chunk(2, dim=-1)
    return (x * angles.cos()) + (torch.cat((-second, first), dim=-1) * angles.sin())


def block(x: Tensor, weights: Weights, prefix: str, heads: int) -> Tensor:
    def w(name: str) -> Tensor:
        return weights[f"{prefix}{name}.weight"]

    batch, length, width = x.shape
    queries, keys, values = F.linear(norm(x, w("attention_norm")), w("attention.in_proj")).chunk(3, dim=-1)
    queries, keys = norm(queries, w("attention.q_norm")), norm(keys, w("attention.k_norm"))
    shape = (batch, length, heads, width // heads)
    queries, keys = rotated(queries.view(shape)), rotated(keys.view(shape))
    attended = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.view(shape).transpose(1, 2), is_causal=True
    )
    x = x + F.linear(attended.transpose(1, 2).contiguous().view(x.shape), w("attention.out_proj"))
    gate, up = F.linear(norm(x, w("ffn_norm")), w("feed_forward.w12")).chunk(2, dim=-1)
    return x + F.linear(F.silu(gate) * up, w("feed_forward.w3"))


def logits(tokens: Tensor, weights: Weights, model: LanguageModel) -> Tensor:
    x = F.embedding(tokens, weights["tok_embeddings.weight"])
    for layer in range(model.layers):
        x = block(x, weights, f"layers.{layer}.", model.heads)
    return F.linear(norm(x, weights["norm.weight"]), weights["output.weight"])


def test_five_steps_have_the_bits_of_the_plain_formulas() -> None:
    vlm = initial_model(CASE)
    weights = {name: weight.clone().requires_grad_() for name, weight in vlm.collect_weights().items()}
    optimizer = torch.optim.AdamW(
        [{"params": [], "weight_decay": 0.0}, {"params": list(weights.values()), "weight_decay": CASE.weight_decay}],
        lr=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    losses = []
    for step, batch in enumerate(batches(CASE)):
        for group in optimizer.param_groups:
            group["lr"] = CASE.schedule.compute_lr(step)
        optimizer.zero_grad()
        found = logits(batch.tokens, weights, CASE.model).reshape(-1, CASE.vocabulary)
        loss = F.cross_entropy(found, batch.targets) + CASE.z_loss * found.logsumexp(dim=-1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    ours = train(CASE, vlm)
    torch.testing.assert_close(ours, losses, rtol=1e-6, atol=0)
    assert [name for name, weight in vlm.collect_weights().items() if not torch.equal(weight, weights[name])] == []
