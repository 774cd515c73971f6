"""Image encoders: pixels to features. Their sizes stand in `stages.vision.specs`, for the planner."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.config import Vision
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.vision.specs import EncoderSpec, UnknownEncoderError, resolve_encoder_spec


class PatchEncoder(nn.Module):
    """No encoder: the pixels of each square patch, scaled to -1..1; rows of patches from the top left."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.side = spec.image_size // spec.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), uint8, to features (N, I, 3 x patch x patch), float32."""
        patch, side = self.patch_size, self.side
        x = pixels[:, :, : side * patch, : side * patch].float() / 127.5 - 1
        x = x.reshape(len(x), 3, side, patch, side, patch)  # N, 3, rows, patch, columns, patch
        return x.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), side * side, 3 * patch * patch)


class FusedEncoder(nn.Module):
    """Encoders of the same patches, their features side by side."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), uint8, to features (N, I, sum of the parts' widths)."""
        return torch.cat([part(pixels) for part in self.parts], dim=-1)


def load_encoder_module(vision: Vision, paths: Sequence[Path], device: torch.device) -> nn.Module:
    """The encoder of `vision` with its weights: pixels (N, 3, S, S), uint8, to features (N, I, F).

    `paths`: folders of transformers, one for each part (`resolve_encoder_paths`). The weights are float32; those of a
    frozen encoder take no gradient. ConfigError: no such encoder, or a folder that holds another; DataError: a folder
    that is not whole.
    """
    spec = check_encoder(vision)
    parts = select_transformer_parts(spec)
    if len(paths) != len(parts):
        raise ConfigError(
            f"encoder {spec.name!r}: {len(paths)} folders of weights; it takes "
            + (", ".join(f"one of {part.name}" for part in parts) or "none")
        )
    if parts:
        modules = [load_transformer(part, path) for part, path in zip(parts, paths, strict=True)]
        encoder = FusedEncoder(modules) if spec.parts else modules[0]
    else:
        encoder = build_builtin_encoder(spec)
    return encoder.to(device).requires_grad_(not vision.frozen)


def build_encoder_module(vision: Vision) -> nn.Module | None:
    """A trained encoder as a part of the model, to be filled from a checkpoint; None for a frozen one.

    Its weights are NaN until then, so that none goes unfilled unnoticed.
    """
    if vision.frozen:
        return None
    spec = check_encoder(vision)
    if not (parts := select_transformer_parts(spec)):
        return build_builtin_encoder(spec)
    modules = [build_empty_transformer(part) for part in parts]
    encoder = FusedEncoder(modules) if spec.parts else modules[0]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(torch.nan)
    return encoder


def check_encoder(vision: Vision) -> EncoderSpec:
    """The encoder's sizes; ConfigError if there is none of that name, or it cannot be trained."""
    try:
        spec = resolve_encoder_spec(vision.encoder)
    except UnknownEncoderError as error:
        raise ConfigError(str(error)) from error
    if not vision.frozen and spec.architecture == "efficientnet":
        raise ConfigError(f"encoder {spec.name!r}: its batch norms are folded, it cannot be trained; use frozen: true")
    return spec


def select_transformer_parts(spec: EncoderSpec) -> tuple[EncoderSpec, ...]:
    """The parts whose weights come from folders."""
    return tuple(part for part in spec.parts or (spec,) if part.architecture in {"siglip", "dinov2"})


def build_builtin_encoder(spec: EncoderSpec) -> nn.Module:
    """An encoder that has no weights, or brings its own."""
    if spec.architecture == "patches":
        return PatchEncoder(spec)
    from stages.vision.efficientnet import EfficientNetLite0

    return EfficientNetLite0()


def load_transformer(spec: EncoderSpec, folder: Path) -> nn.Module:
    """One transformer from its folder."""
    if spec.architecture == "siglip":
        from stages.vision.transformers_encoders import load_siglip

        return load_siglip(spec, folder)
    from stages.vision.transformers_encoders import load_dinov2

    return load_dinov2(spec, folder)


def build_empty_transformer(spec: EncoderSpec) -> nn.Module:
    """One transformer with weights of any value."""
    if spec.architecture == "siglip":
        from stages.vision.transformers_encoders import build_empty_siglip

        return build_empty_siglip(spec)
    from stages.vision.transformers_encoders import build_empty_dinov2

    return build_empty_dinov2(spec)


def resolve_encoder_paths(job: JobFile, vision: Vision) -> tuple[Path, ...]:
    """Where the encoder's weights lie; DataError if one of the data sets is not there.

    A checkpoint's `vision` names them by their identities, which job.json locates too.
    """
    return tuple(job.resolve_data_path(name) for name in vision.weights)
