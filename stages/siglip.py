"""SigLIP's vision tower (Zhai et al. 2023), as transformers has it."""

from pathlib import Path
from typing import Any

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from stages.encoder_folder import check_config, load_model, read_config
from stages.encoder_spec import EncoderSpec
from stages.vision.transformers_encoders import VisionTransformer

SIGLIP_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
)
"""Of the folder's configuration: those that decide what is computed."""


def load_siglip(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The tower with the weights of a folder that holds it, alone or beside the text tower.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    config = siglip_config(spec)
    given = read_config(folder, ("siglip_vision_model", "siglip"))
    given = given.get("vision_config", given)
    # the folder has one block more than are run
    check_config(folder, spec.name, given, published(spec), SiglipVisionConfig())
    return wrap_siglip(spec, load_model(SiglipVisionModel, config, folder))


def empty_siglip(spec: EncoderSpec) -> VisionTransformer:
    """The tower without weights: memory as it comes."""
    with torch.device("meta"):
        model = SiglipVisionModel(siglip_config(spec))
    return wrap_siglip(spec, model.to_empty(device="cpu"))


def siglip_config(spec: EncoderSpec) -> SiglipVisionConfig:
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


def published(spec: EncoderSpec) -> dict[str, Any]:
    """What the folder's configuration must say."""
    config = siglip_config(spec)
    return {**{field: getattr(config, field) for field in SIGLIP_FIELDS}, "num_hidden_layers": spec.layers + 1}


def wrap_siglip(spec: EncoderSpec, model: SiglipVisionModel) -> VisionTransformer:
    """The parts of transformers' model that are run."""
    embeddings = model.embeddings
    positions = embeddings.position_embedding.weight
    return VisionTransformer(spec, embeddings.patch_embedding, positions, None, model.encoder.layers)
