import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.config import LanguageModel, Optimizer
from stages.models import openlm
from stages.models.attention import KeyValueCache
from stages.models.loss import LossSettings, compute_token_loss
from stages.models.openlm import OpenLM, SwiGLU, build_rotary_table, rotate
from stages.training.optimizer import AdamW

SMALL = LanguageModel(d_model=48, layers=3, heads=4, vocabulary=100)


def small_model(seed: int = 0) -> OpenLM:
    torch.manual_seed(seed)
    return OpenLM(SMALL)


@pytest.mark.parametrize(
    ("d_model", "layers", "heads", "parameters"),
    [
        (96, 8, 4, 10_569_312),
        (512, 8, 4, 78_914_048),
        (576, 24, 8, 153_677_376),
        (1_024, 24, 8, 411_616_256),
        (2_048, 24, 16, 1_439_795_200),
        (2_560, 32, 32, 2_795_932_160),
        (4_096, 32, 32, 6_889_410_560),
    ],
)
def test_the_papers_models_have_the_papers_parameters(d_model: int, layers: int, heads: int, parameters: int) -> None:
    config = LanguageModel(d_model=d_model, layers=layers, heads=heads)
    with torch.device("meta"):
        model = OpenLM(config)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    qk_gains = sum(count for name, count in counts.items() if "q_norm" in name or "k_norm" in name)
    assert sum(counts.values()) - qk_gains == parameters == config.parameters
    assert sum(counts.values()) == config.weights


def test_weights_have_open_lms_names() -> None:
    names = set(small_model().state_dict())
    block = {
        "attention.in_proj", "attention.out_proj", "attention.q_norm", "attention.k_norm",
        "feed_forward.w12", "feed_forward.w3", "attention_norm", "ffn_norm",
    }  # fmt: skip
    layers = {f"layers.{layer}.{name}.weight" for layer in range(3) for name in block}
    assert names == layers | {"tok_embeddings.weight", "norm.weight", "output.weight"}


def test_random_numbers_are_drawn_in_open_lms_order() -> None:
    model = small_model(seed=124)
    torch.manual_seed(124)
    width, hidden, cut = 48, 256, 3

    def truncated(shape: tuple[int, int], std: float) -> torch.Tensor:
        return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-cut * std, b=cut * std)

    torch.nn.Embedding(100, width)  # each module draws its own default first
    for layer in range(3):
        torch.nn.Linear(width, 3 * width, bias=False)
        torch.nn.Linear(width, width, bias=False)
        in_proj = truncated((3 * width, width), 1 / math.sqrt(width))
        out_proj = truncated((width, width), 1 / math.sqrt(width) / math.sqrt(2 * (layer + 1)))
        torch.nn.Linear(width, 2 * hidden, bias=False)
        torch.nn.Linear(hidden, width, bias=False)
        w12 = truncated((2 * hidden, width), 1 / math.sqrt(width))
        w3 = truncated((width, hidden), 1 / math.sqrt(hidden) / math.sqrt(2 * (layer + 1)))
        weights = {name: weight for name, weight in model.state_dict().items() if name.startswith(f"layers.{layer}.")}
        drawn = {"attention.in_proj": in_proj, "attention.out_proj": out_proj, "feed_forward.w12": w12}
        for name, expected in {**drawn, "feed_forward.w3": w3}.items():
            assert torch.equal(weights[f"layers.{layer}.{name}.weight"], expected), name
    torch.nn.Linear(width, 100, bias=False)
    assert torch.equal(model.output.weight, truncated((100, width), 1 / math.sqrt(width)))
    assert torch.equal(model.tok_embeddings.weight, truncated((100, width), 1 / math.sqrt(width)))
    assert torch.equal(model.norm.weight, torch.ones(width))


def test_rotary_positions_turn_each_pair_by_its_frequency() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 7, 1, 8)
    cos, sin = (table[:, None, :] for table in build_rotary_table(7, 8, torch.device("cpu")))
    turned = rotate(x, cos, sin)
    pairs = torch.complex(x[..., :4], x[..., 4:])  # half-split: i goes with i + 4
    angles = torch.outer(torch.arange(7.0), 10_000 ** (-torch.arange(0, 8, 2) / 8))
    expected = pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None, :]
    torch.testing.assert_close(turned, torch.cat((expected.real, expected.imag), dim=-1))


def test_a_position_sees_no_later_one() -> None:
    model = small_model()
    tokens = torch.randint(0, 100, (2, 12))
    changed = tokens.clone()
    changed[:, 8:] = 5
    torch.testing.assert_close(model(tokens)[:, :8], model(changed)[:, :8])
    assert not torch.allclose(model(tokens)[:, 8:], model(changed)[:, 8:])


def test_logits_are_float32_and_embeddings_may_replace_tokens() -> None:
    model = small_model()
    tokens = torch.randint(0, 100, (2, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(tokens).dtype == torch.float32
    assert torch.equal(model(tokens), model(inputs_embeds=model.embed(tokens)))
    with pytest.raises(ValueError, match="either tokens or inputs_embeds"):
        model()


@torch.inference_mode()
def test_one_position_at_a_time_gives_the_logits_of_all_at_once() -> None:
    model = small_model()
    tokens = torch.randint(0, 100, (3, 10))
    cache = KeyValueCache()
    steps = [model(tokens[:, i : i + 1], cache=cache) for i in range(10)]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens))
    with pytest.raises(ValueError, match="need a mask"):
        model(tokens, cache=cache)


def test_a_model_that_has_generated_can_still_be_trained() -> None:
    model = small_model()
    tokens = torch.randint(0, 100, (1, 6))
    with torch.inference_mode():
        model(tokens)
    model(tokens).sum().backward()


def test_the_losss_gradient_has_the_bits_of_open_lms_formula() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(200, 100) * 3, torch.randint(0, 100, (200,))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, entropies = compute_token_loss(ours, targets, count=200, settings=LossSettings(z_loss=1e-4))
    expected = F.cross_entropy(theirs, targets) + 1e-4 * torch.square(torch.logsumexp(theirs, dim=-1)).mean()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    expected.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(entropies.mean(), F.cross_entropy(logits, targets))


def test_adamw_has_the_bits_of_torchs_adamw() -> None:
    ours, theirs = small_model(), small_model()
    mine = AdamW(ours.named_parameters(), Optimizer(weight_decay=0.1))
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        tokens = torch.randint(0, 100, (2, 9))
        rate = 1e-3 * (step + 1)
        reference.param_groups[0]["lr"] = rate
        for model in (ours, theirs):
            model.zero_grad()
            model(tokens).logsumexp(dim=-1).mean().backward()
        mine.step(rate)
        reference.step()
    for mine_weight, reference_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine_weight, reference_weight)


def test_the_fused_kernel_of_gpus_makes_the_same_updates() -> None:
    ours, fused = small_model(), small_model()
    loop, one_kernel = (AdamW(model.named_parameters(), Optimizer()) for model in (ours, fused))
    tokens = torch.randint(0, 100, (2, 9))
    for step in range(4):
        for model, optimizer in ((ours, loop), (fused, one_kernel)):
            model.zero_grad()
            # at step 1 a part of the model rests, so that the moments' ages differ
            chosen = model.tok_embeddings(tokens).sum() if step == 1 else model(tokens).logsumexp(dim=-1).mean()
            chosen.backward()
            optimizer.step(1e-3, fused=optimizer is one_kernel)
    for weight, expected in zip(fused.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functions_with_a_backward_pass_of_their_own_have_the_plain_bits(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(3, 10, 2, 16).to(dtype), torch.randn(3, 10, 2, 16).to(dtype)
    table = tuple(part[:, None].to(dtype) for part in build_rotary_table(10, 16, x.device))
    layer = SwiGLU(LanguageModel(d_model=32, layers=1, heads=2, vocabulary=50), 0).to(dtype)
    hidden, of_output = torch.randn(3, 10, 32).to(dtype), torch.randn(3, 10, 32).to(dtype)

    def figures() -> list[Tensor]:
        given, state = x.clone().requires_grad_(), hidden.clone().requires_grad_()
        turned, gated = rotate(given, *table), layer(state)
        weights = [state, *layer.parameters()]
        return [
            turned.detach(), *torch.autograd.grad(turned, given, gradient),
            gated.detach(), *torch.autograd.grad(gated, weights, of_output),
        ]  # fmt: skip

    ours = figures()
    monkeypatch.setattr(openlm, "is_training_on_cpu", lambda _: False)
    for one, other in zip(ours, figures(), strict=True):
        assert torch.equal(one, other)
