"""The OpenLM decoder, with weights exchangeable with open_lm checkpoints (mlfoundations/open_lm, `model.py`).

Names of the weights, order of construction and initialisation are open_lm's, so that the same seed gives the same
weights, bit for bit: SwiGLU, rotary positions, qk-norm, norms with a gain and no bias, untied output.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.config import LanguageModel
from stages.models.attention import KeyValueCache, Mask, attend
from stages.models.linear import Linear
from stages.models.loss import ChunkLoss, LossSettings, compute_chunk_loss, compute_output_loss, compute_token_loss

# Rotary positions (RoFormer, arXiv 2104.09864), in the form of GPT-NeoX: a head's two halves are rotated.

ROTARY_BASE = 10_000


# Why: docs/decisions.md, D19
@torch.inference_mode(mode=False)
def build_rotary_table(
    length: int, head_width: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (length, head width): base 10,000, halves split as in GPT-NeoX.

    `dtype` is that of frequencies and table; the angles are float32. bfloat16 is what open_lm computes with under
    autocast: there a frequency has 8 binary digits, so that far positions turn by quite another angle. Made outside
    inference mode, as training may reuse it.
    """
    frequencies = 1.0 / (ROTARY_BASE ** (torch.arange(0, head_width, 2, device=device).float() / head_width))
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = positions[:, None] * frequencies.to(dtype).float()
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns (B, T, heads, head width) by its positions' angles, (T, 1, head width) or (B, T, 1, head width)."""
    if is_training_on_cpu(x):
        turned: Tensor = Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return turned
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def is_training_on_cpu(x: Tensor) -> bool:
    """Whether a function with a backward pass of its own pays: it copies less. A compiler does better by itself."""
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Rotation(torch.autograd.Function):
    """`rotate`, with its bits and those of its gradient, in half the time on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate_halves(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotate_halves(gradient, cos, -sin), None, None


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` without a copy of the halves in the other order."""
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].sub_(x[..., half:] * sin[..., :half])
    turned[..., half:].add_(x[..., :half] * sin[..., half:])
    return turned


NORM_EPS = 1e-5


class GainNorm(nn.Module):
    """LayerNorm with a gain and no bias, computed in the autocast type (open_lm's `gain_only_lp_layer_norm`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        weight: Tensor = self.weight
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x, weight = x.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            return F.layer_norm(x, weight.shape, weight, None, NORM_EPS)


class Attention(nn.Module):
    """Causal self-attention; query and key are normed over the full width before the heads are split."""

    def __init__(self, config: LanguageModel, layer: int) -> None:
        super().__init__()
        width = config.d_model
        self.heads, self.layer = config.heads, layer
        self.in_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)
        self.q_norm = GainNorm(width) if config.qk_norm else nn.Identity()
        self.k_norm = GainNorm(width) if config.qk_norm else nn.Identity()
        std = 1.0 / math.sqrt(width)
        init_truncated_normal(self.in_proj.weight, std)
        init_truncated_normal(self.out_proj.weight, std / math.sqrt(2 * (layer + 1)))

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Mask | None, cache: KeyValueCache | None
    ) -> Tensor:
        batch, length, width = x.shape
        queries, keys, values = self.in_proj(x).chunk(3, dim=-1)
        shape = (batch, length, self.heads, width // self.heads)
        queries = rotate(self.q_norm(queries).view(shape), *rotary).transpose(1, 2)
        keys = rotate(self.k_norm(keys).view(shape), *rotary).transpose(1, 2)
        values = values.view(shape).transpose(1, 2)
        if cache is not None:
            keys, values = cache.extend(self.layer, keys, values)
        attended = attend(queries, keys, values, mask)
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return mixed


class SwiGLU(nn.Module):
    """w3(silu(gate) * x), where the first half of w12's output is the gate."""

    def __init__(self, config: LanguageModel, layer: int) -> None:
        super().__init__()
        self.w12 = Linear(config.d_model, 2 * config.feed_forward_width)
        self.w3 = Linear(config.feed_forward_width, config.d_model)
        self.layer = layer

    def reset_parameters(self) -> None:
        init_truncated_normal(self.w12.weight, 1.0 / math.sqrt(self.w12.in_features))
        init_truncated_normal(self.w3.weight, 1.0 / math.sqrt(self.w3.in_features) / math.sqrt(2 * (self.layer + 1)))

    def forward(self, x: Tensor) -> Tensor:
        both = self.w12(x)
        if is_training_on_cpu(both):
            gated = GatedProduct.apply(both)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        else:
            gate, x = both.chunk(2, dim=-1)
            gated = F.silu(gate) * x
        y: Tensor = self.w3(gated)
        return y


class GatedProduct(torch.autograd.Function):
    """silu(first half) * second half of (..., 2 H), with the bits of the plain formula and of its gradient.

    Both halves' gradients are written where the layer before takes them, instead of being put together.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, x = both.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        gate, x = both.chunk(2, dim=-1)
        answer = torch.empty_like(both)
        of_gate, of_x = answer.chunk(2, dim=-1)
        torch.mul(gradient, opened, out=of_x)
        torch.ops.aten.silu_backward.grad_input(gradient * x, gate, grad_input=of_gate)
        return answer


class DecoderBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: LanguageModel, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = SwiGLU(config, layer)
        self.attention_norm = GainNorm(config.d_model)
        self.ffn_norm = GainNorm(config.d_model)
        self.feed_forward.reset_parameters()

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Mask | None, cache: KeyValueCache | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, mask, cache)
        x = x + self.feed_forward(self.ffn_norm(x))
        return x  # noqa: RET504 - nn.Module calls are untyped


class OpenLM(nn.Module):
    """A decoder over token ids or embeddings.

    `forward` gives float32 logits (B, T, V). `hidden` and `logits` are its two halves, for a caller that needs logits
    at some positions only.
    """

    def __init__(self, config: LanguageModel) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocabulary, config.d_model)
        self.layers = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.layers))
        self.norm = GainNorm(config.d_model)
        self.output = Linear(config.d_model, config.vocabulary)
        std = 1.0 / math.sqrt(config.d_model)
        init_truncated_normal(self.output.weight, std)
        init_truncated_normal(self.tok_embeddings.weight, std)
        self.chunk_loss: ChunkLoss = compute_chunk_loss
        self._rotary: tuple[Tensor, Tensor] | None = None  # no buffer: it is not part of a checkpoint

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to (B, T, D)."""
        embeddings: Tensor = self.tok_embeddings(tokens)
        return embeddings

    def compute_hidden(
        self,
        inputs_embeds: Tensor,
        *,
        mask: Mask | None = None,
        cache: KeyValueCache | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Normed last hidden states (B, T, D) of embeddings (B, T, D).

        `mask`: boolean (B or 1, 1, T, S), true where a position may attend; None is causal, which with a non-empty
        `cache` allows one new position at a time (all earlier ones are visible to it). `cache` is extended in place.
        `positions` (B or 1, T): each embedding's place in its text, where that is not its place in the row.
        """
        start = cache.length if cache is not None else 0
        if start and mask is None and inputs_embeds.shape[1] > 1:
            raise ValueError("several new positions behind a cache need a mask")
        x = inputs_embeds
        if positions is None:
            rotary = self._rotary_rows(slice(start, start + x.shape[1]), start + x.shape[1], x)
        else:
            rotary = self._rotary_rows(positions, int(positions.max()) + 1, x)
        for layer in self.layers:
            x = layer(x, rotary, mask, cache)
        normed: Tensor = self.norm(x)
        return normed

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to float32 logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits.float()

    def compute_loss(
        self, hidden: Tensor, targets: Tensor, *, count: int, settings: LossSettings, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of hidden states (N, D), and the entropy of each (N,); see `stages.models.loss`."""
        if not settings.chunk_tokens:
            logits = self.compute_logits(hidden)
            return compute_token_loss(logits, targets, count=count, settings=settings, weights=weights)
        return compute_output_loss(
            hidden,
            self.output.weight,
            targets,
            count=count,
            settings=settings,
            weights=weights,
            matmul=self.output.matmul,
            of_chunk=self.chunk_loss,
        )

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        mask: Mask | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        if (tokens is None) == (inputs_embeds is None):
            raise ValueError("give either tokens or inputs_embeds")
        if tokens is not None:
            inputs_embeds = self.embed(tokens)
        assert inputs_embeds is not None  # noqa: S101 - for the type checker; one of the two is given
        return self.compute_logits(self.compute_hidden(inputs_embeds, mask=mask, cache=cache))

    def _rotary_rows(self, places: slice | Tensor, end: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The table's rows of these places below `end`, (T, 1, head width) or (B, T, 1, head width), in the type that
        attention computes in.
        """
        device = x.device
        if self._rotary is None or self._rotary[0].shape[0] < end or self._rotary[0].device != device:
            rows = 1 << (end - 1).bit_length()
            table = torch.bfloat16 if self.config.rotary_table == "bfloat16" else torch.float32
            self._rotary = build_rotary_table(rows, self.config.d_model // self.config.heads, device, table)
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
        cos, sin = (table[places].unsqueeze(-2).to(dtype) for table in self._rotary)
        return cos, sin


def init_truncated_normal(weight: Tensor, std: float) -> None:
    """Fills with a normal distribution, cut at three standard deviations."""
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)
