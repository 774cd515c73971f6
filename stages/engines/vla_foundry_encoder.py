"""Our encoders as encoders of timm, from which vla_foundry's `vit_hf` takes them: a folder, and the weights' names.

timm's `local-dir:` reads a config.json that may change a network's depth and leave out its last norm. So it is cut
where ours is: SigLIP after its second to last block, without a norm. `patches` is a convolution that sorts the pixels,
and one block that adds nothing, as timm's transformers have one at least.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.encoder_spec import EncoderSpec
from stages.files import replacing

PATCHES_BLOCK = {
    "norm1.weight": "w", "norm1.bias": "w", "norm2.weight": "w", "norm2.bias": "w", "attn.qkv.weight": "3w,w",
    "attn.qkv.bias": "3w", "attn.proj.weight": "w,w", "attn.proj.bias": "w", "mlp.fc1.weight": "1,w",
    "mlp.fc1.bias": "1", "mlp.fc2.weight": "w,1", "mlp.fc2.bias": "w",
}  # fmt: skip
"""The shapes of a block of width w, its hidden layer as narrow as can be."""
BLOCK = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
"""timm's modules of a block, and those of transformers that they hold, one below the other."""


def names_of(spec: EncoderSpec) -> dict[str, tuple[str, ...]]:
    """timm's name of each weight, in timm's order, and our names of what it holds. Empty for `patches`."""
    if spec.architecture == "patches":
        return {}
    names: dict[str, tuple[str, ...]] = {"pos_embed": ("positions",)}
    for kind in ("weight", "bias"):
        names[f"patch_embed.proj.{kind}"] = (f"patch_embedding.{kind}",)
    for block in range(spec.layers):
        for theirs in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                names[f"blocks.{block}.{theirs}.{kind}"] = tuple(
                    f"blocks.{block}.{ours}.{kind}" for ours in BLOCK[theirs]
                )
    return names


def to_timm(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our encoder's weights under timm's names."""
    if spec.architecture == "patches":
        return patches_weights(spec)
    joined = {theirs: torch.cat([weights[name] for name in ours]) for theirs, ours in names_of(spec).items()}
    return {**joined, "pos_embed": joined["pos_embed"][None]}


def from_timm(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of timm under our names; also moments, which have the weights' shapes."""
    ours: dict[str, Tensor] = {}
    for theirs, names in names_of(spec).items():
        tensor = weights[theirs][0] if theirs == "pos_embed" else weights[theirs]
        ours |= {name: part.clone() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}
    return ours


def patches_weights(spec: EncoderSpec) -> dict[str, Tensor]:
    """Of the convolution that gives each pixel of a patch a channel, and of the block that adds nothing."""
    width, patch = spec.feature_width, spec.patch_size
    size = {"w": width, "3w": 3 * width, "1": 1}
    zeros = {
        f"blocks.0.{name}": torch.zeros([size[part] for part in shape.split(",")])
        for name, shape in PATCHES_BLOCK.items()
    }
    sorting = torch.eye(width).reshape(width, 3, patch, patch)
    return {"patch_embed.proj.weight": sorting, "patch_embed.proj.bias": torch.zeros(width), **zeros}


def timm_config(spec: EncoderSpec) -> dict[str, Any]:
    """The config.json of timm's folder."""
    patches = spec.architecture == "patches"
    network = {
        "img_size": spec.image_size,
        "patch_size": spec.patch_size,
        "embed_dim": spec.feature_width,
        "depth": 1 if patches else spec.layers,
        "num_heads": 1 if patches else spec.heads,
        "mlp_ratio": (1 if patches else spec.mlp_width) / spec.feature_width,
        "class_token": False,
        "global_pool": "",
        "pos_embed": "none" if patches else "learn",
        "act_layer": "gelu_tanh",
        "final_norm": False,
    }
    side = spec.image_size
    return {
        "architecture": "vit_base_patch16_224",  # whose sizes all stand in model_args
        "num_classes": 0,
        "model_args": network,
        "pretrained_cfg": {
            "input_size": [3, side, side], "num_classes": 0, "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip


def write_encoder(spec: EncoderSpec, encoder: nn.Module, folder: Path) -> None:
    """timm's folder of an encoder of ours: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    tensors = {name: tensor.float().contiguous() for name, tensor in to_timm(spec, own).items()}
    with replacing(folder / "model.safetensors") as unfinished:
        save_file(tensors, unfinished)
    with replacing(folder / "config.json") as unfinished:
        unfinished.write_text(json.dumps(timm_config(spec), indent=1))
