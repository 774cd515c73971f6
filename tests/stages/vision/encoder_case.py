"""Folders of tiny random encoders, as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from stages.vision.transformers_encoders import silence_transformers

SIGLIP, DINOV2, FUSED = "siglip-tiny-32", "dinov2-tiny-reg-32", "siglip+dinov2-tiny-32"


def siglip_model(seed: int = 0) -> SiglipVisionModel:
    """What `siglip-tiny-32` takes: three blocks, and a pooling head."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    torch.manual_seed(seed)
    return SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8))


def siglip_with_text() -> SiglipModel:
    """The same tower beside a text tower, as it is published."""
    text = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    return SiglipModel(SiglipConfig(vision_config=siglip_model().config, text_config={**text, **ends}))


def dinov2_model(image_size: int = 56) -> Dinov2WithRegistersModel:
    """What `dinov2-tiny-reg-32` takes, with positions of another image size, all weights far from zero."""
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 8}
    torch.manual_seed(1)
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, image_size=image_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def save(model: PreTrainedModel, folder: Path) -> Path:
    with silence_transformers():
        model.save_pretrained(folder)
    return folder
