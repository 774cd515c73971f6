"""Vision encoders made of transformers' blocks: the network, DINOv2, SigLIP, and the folders with their weights."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils import logging as transformers_logging

from stages.errors import DataError
from stages.job_file import summarize_error
from stages.vision.encoder_folder import check_siglip_config, check_weight_files, read_dinov2_image_size
from stages.vision.specs import EncoderSpec


# Why: docs/decisions.md, D23
class VisionTransformer(nn.Module):
    """Normalisation, patch embedding, positions, blocks: the patches after the last of the blocks, without a norm.

    That is the second to last block of the published network (Prismatic's choice); the rest is left out.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: EncoderSpec,
        patch_embedding: nn.Conv2d,
        positions: Tensor,
        prefix: Tensor | None,
        blocks: Iterable[nn.Module],
    ) -> None:
        """`positions` (I, F) are added to the patches, `prefix` (P, F) stands before them (class and registers)."""
        super().__init__()
        # not in checkpoints: constants of the encoder
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.patch_embedding = patch_embedding
        self.positions = nn.Parameter(positions.detach().clone())
        self.prefix = nn.Parameter(prefix.detach().clone()) if prefix is not None else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), uint8, to features (N, I, F); pixels that fill no patch are cut off."""
        x = (pixels.float() / 255 - self.mean) / self.std
        x = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions
        if self.prefix is not None:
            x = torch.cat((self.prefix.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x, None)  # no mask
        return x[:, len(self.prefix) :] if self.prefix is not None else x


# DINOv2 with registers (Oquab et al. 2023; Darcet et al. 2023), as transformers has it.


def load_dinov2(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The network with the weights of a folder; its positions, learned at another image size, are resampled.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    config = build_dinov2_config(spec, read_dinov2_image_size(spec, folder))
    return wrap_dinov2(spec, load_model(Dinov2WithRegistersModel, config, folder))


def build_empty_dinov2(spec: EncoderSpec) -> VisionTransformer:
    """The network with uninitialized weights."""
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(build_dinov2_config(spec, spec.image_size))
    return wrap_dinov2(spec, model.to_empty(device="cpu"))


def build_dinov2_config(spec: EncoderSpec, image_size: int) -> Dinov2WithRegistersConfig:
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
        spec,
        embeddings.patch_embeddings.projection,
        resample_positions(positions[1:], side),
        prefix,
        model.encoder.layer,
    )


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Positions (n x n, F) for side x side patches: bicubic and antialiased, as transformers and timm do it."""
    learned = round(len(positions) ** 0.5)
    if learned == side:
        return positions
    grid = positions.detach().float().view(1, learned, learned, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return grid[0].permute(1, 2, 0).reshape(side * side, -1)


# SigLIP's vision tower (Zhai et al. 2023), as transformers has it.


def load_siglip(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The tower with the weights of a folder that holds it, alone or beside the text tower.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    check_siglip_config(spec, folder)
    return wrap_siglip(spec, load_model(SiglipVisionModel, build_siglip_config(spec), folder))


def build_empty_siglip(spec: EncoderSpec) -> VisionTransformer:
    """The tower with uninitialized weights."""
    with torch.device("meta"):
        model = SiglipVisionModel(build_siglip_config(spec))
    return wrap_siglip(spec, model.to_empty(device="cpu"))


def build_siglip_config(spec: EncoderSpec) -> SiglipVisionConfig:
    """For transformers: the part that is run, without the last block and the pooling head."""
    return SiglipVisionConfig(
        hidden_size=spec.feature_width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        vision_use_head=False,
    )


def wrap_siglip(spec: EncoderSpec, model: SiglipVisionModel) -> VisionTransformer:
    """The parts of transformers' model that are run."""
    embeddings = model.embeddings
    positions = embeddings.position_embedding.weight
    return VisionTransformer(spec, embeddings.patch_embedding, positions, None, model.encoder.layers)


# The network with a folder's weights (`stages.vision.encoder_folder`).

Model = TypeVar("Model", bound=PreTrainedModel)


def load_model(kind: type[Model], config: PretrainedConfig, folder: Path) -> Model:
    """transformers' model of `config` in float32 with the weights of `folder`, which may hold more.

    Only safetensors are read, from the folder alone. DataError if weights are missing, damaged, or of other shapes.
    """
    check_weight_files(folder)
    loaded: Any
    try:
        with silence_transformers():
            loaded = kind.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: the weights cannot be loaded: {summarize_error(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise DataError(f"{folder}: {len(missing)} weights are missing, {missing[0]} the first")
    if not isinstance(model, kind):
        raise TypeError(f"transformers gave a {type(model).__name__} for {kind.__name__}")
    return model


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Hides its progress bar, and its list of the weights that are in the folder and not used."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it so
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
