"""Rotary positions (RoFormer, arXiv 2104.09864), in the form of GPT-NeoX: a head's two halves are rotated."""

import torch
from torch import Tensor

ROTARY_BASE = 10_000


@torch.inference_mode(mode=False)
def rotary_table(
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
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
