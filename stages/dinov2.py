"""DINOv2 with registers (Oquab et al. 2023; Darcet et al. 2023), as transformers has it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from stages.encoder_folder import check_config, load_model, read_config
from stages.encoder_spec import EncoderSpec
from stages.errors import ConfigError
from stages.vision.transformers_encoders import VisionTransformer

DINOV2_FIELDS = (
    "hidden_size",
    "mlp_ratio",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_register_tokens",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "use_swiglu_ffn",
)
"""Of the folder's configuration: those that decide what is computed."""


def load_dinov2(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The network with the weights of a folder; its positions, learned at another image size, are resampled.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    given = read_config(folder, ("dinov2_with_registers",))
    learned_at = given.get("image_size", Dinov2WithRegistersConfig().image_size)
    if not isinstance(learned_at, int) or learned_at < spec.patch_size:
        raise ConfigError(f"{folder}: config.json: image_size {learned_at!r}; a number of pixels is expected")
    config = dinov2_config(spec, learned_at)
    # the folder has one block more than are run
    expected = {**{field: getattr(config, field) for field in DINOV2_FIELDS}, "num_hidden_layers": spec.layers + 1}
    check_config(folder, spec.name, given, expected, Dinov2WithRegistersConfig())
    return wrap_dinov2(spec, load_model(Dinov2WithRegistersModel, config, folder))


def empty_dinov2(spec: EncoderSpec) -> VisionTransformer:
    """The network without weights: memory as it comes."""
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(dinov2_config(spec, spec.image_size))
    return wrap_dinov2(spec, model.to_empty(device="cpu"))


def dinov2_config(spec: EncoderSpec, image_size: int) -> Dinov2WithRegistersConfig:
    """For transformers: the part that is run, without the last block; `image_size` is that of the positions."""
    settings: dict[str, Any] = {
        "hidden_size": spec.feature_width,
        "mlp_ratio": spec.mlp_width // spec.feature_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "image_size": image_size,
        "patch_size": spec.patch_size,
        "num_register_tokens": spec.prefix_tokens - 1,
    }
    return Dinov2WithRegistersConfig(**settings)


def wrap_dinov2(spec: EncoderSpec, model: Dinov2WithRegistersModel) -> VisionTransformer:
    """The parts of transformers' model that are run. Of the prefix, the class token alone has a position."""
    embeddings = model.embeddings
    positions = embeddings.position_embeddings[0]
    class_token = embeddings.cls_token[0] + positions[:1]
    prefix = torch.cat((class_token, embeddings.register_tokens[0]))
    side = spec.image_size // spec.patch_size
    return VisionTransformer(
        spec, embeddings.patch_embeddings.projection, resampled(positions[1:], side), prefix, model.encoder.layer
    )


def resampled(positions: Tensor, side: int) -> Tensor:
    """Positions (n x n, F) for side x side patches: bicubic and antialiased, as transformers and timm do it."""
    learned = round(len(positions) ** 0.5)
    if learned == side:
        return positions
    grid = positions.detach().float().view(1, learned, learned, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return grid[0].permute(1, 2, 0).reshape(side * side, -1)
