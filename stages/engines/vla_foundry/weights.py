"""The names of vla_foundry's weights, and AdamW's moments as its optimizer numbers them, from ours and back.

Its transformer is our language model with another name for the embeddings. Its projector has no bias: ours begins as
zero there. A frozen encoder is in its checkpoints and not in ours.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.config import PretrainConfig
from stages.engines.vla_foundry.limits import uses_images
from stages.files import keep_usual_mode, replace_atomically
from stages.models.openlm import OpenLM
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX
from stages.vision.specs import EncoderSpec, resolve_encoder_spec

# Our encoders as encoders of timm, from which vla_foundry's `vit_hf` takes them: a folder, and the weights' names.
#
# timm's `local-dir:` reads a config.json that may change a network's depth and leave out its last norm. So it is cut
# where ours is: SigLIP after its second to last block, without a norm. `patches` is a convolution that sorts the
# pixels, and one block that adds nothing, as timm's transformers have one at least.

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


def map_timm_names(spec: EncoderSpec) -> dict[str, tuple[str, ...]]:
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


def convert_to_timm(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our encoder's weights under timm's names."""
    if spec.architecture == "patches":
        return build_patches_weights(spec)
    joined = {theirs: torch.cat([weights[name] for name in ours]) for theirs, ours in map_timm_names(spec).items()}
    return {**joined, "pos_embed": joined["pos_embed"][None]}


def convert_from_timm(spec: EncoderSpec, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of timm under our names; also moments, which have the weights' shapes."""
    ours: dict[str, Tensor] = {}
    for theirs, names in map_timm_names(spec).items():
        tensor = weights[theirs][0] if theirs == "pos_embed" else weights[theirs]
        ours |= {name: part.clone() for name, part in zip(names, tensor.chunk(len(names)), strict=True)}
    return ours


def build_patches_weights(spec: EncoderSpec) -> dict[str, Tensor]:
    """Of the convolution that gives each pixel of a patch a channel, and of the block that adds nothing."""
    width, patch = spec.feature_width, spec.patch_size
    size = {"w": width, "3w": 3 * width, "1": 1}
    zeros = {
        f"blocks.0.{name}": torch.zeros([size[part] for part in shape.split(",")])
        for name, shape in PATCHES_BLOCK.items()
    }
    sorting = torch.eye(width).reshape(width, 3, patch, patch)
    return {"patch_embed.proj.weight": sorting, "patch_embed.proj.bias": torch.zeros(width), **zeros}


# Why: docs/decisions.md, D60
def build_timm_config(spec: EncoderSpec) -> dict[str, Any]:
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
    tensors = {name: tensor.float().contiguous() for name, tensor in convert_to_timm(spec, own).items()}
    with replace_atomically(folder / "model.safetensors") as unfinished, keep_usual_mode(unfinished):
        save_file(tensors, unfinished)
    with replace_atomically(folder / "config.json") as unfinished:
        unfinished.write_text(json.dumps(build_timm_config(spec), indent=1))


EMBEDDINGS, THEIR_EMBEDDINGS = "tok_embeddings.weight", "embeddings.weight"
TRANSFORMER, PROJECTION, VIT = "transformer.", "projection.proj.weight", "vit.model."
ROTARY_BUFFER = "pos_embed.inv_freq"
PROJECTOR_WEIGHT, PROJECTOR_BIAS = f"{PROJECTOR_PREFIX}0.weight", f"{PROJECTOR_PREFIX}0.bias"
PROJECTOR_STD = 0.02
"""Of its projector's initial weights, a normal distribution."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class FoundryWeightNames:
    """The weights of a job's model, in vla_foundry's order of parameters."""

    def __init__(self, config: PretrainConfig) -> None:
        with torch.device("meta"):
            ours = [name for name, _ in OpenLM(config.model).named_parameters()]
        self.heads_width = config.model.d_model // config.model.heads
        self.layers = config.model.layers
        self.spec: EncoderSpec | None = None
        self.trained_spec: EncoderSpec | None = None
        """The encoder where it is trained."""
        before = ""
        if uses_images(config) and config.vision is not None:
            before, self.spec = TRANSFORMER, resolve_encoder_spec(config.vision.encoder)
            self.trained_spec = None if config.vision.frozen or self.spec.architecture == "patches" else self.spec
        self.before = before
        self.transformer = {name: before + name.replace(EMBEDDINGS, THEIR_EMBEDDINGS) for name in ours}

    def list_trained(self) -> list[str]:
        """Its parameters that take a gradient: encoder, transformer, projector."""
        encoder = [VIT + name for name in map_timm_names(self.trained_spec)] if self.trained_spec else []
        return [*encoder, *self.transformer.values(), *([PROJECTION] if self.spec else [])]

    def group_by_decay(self) -> tuple[list[str], list[str]]:
        """The parameters in the order in which its optimizer counts them: without weight decay, then with it."""
        without = [name for name in self.list_trained() if name.endswith(".bias") or "norm" in name.lower()]
        return without, [name for name in self.list_trained() if name not in set(without)]

    def convert_from_foundry(self, tensors: Mapping[str, Tensor], *, bias: Tensor | None = None) -> dict[str, Tensor]:
        """Their weights (or moments) under our names. KeyError names the first that is not there.

        `bias`: of the projector, which they do not have; zeros.
        """
        ours = {name: tensors[theirs] for name, theirs in self.transformer.items()}
        if self.spec is not None:
            ours[PROJECTOR_WEIGHT] = tensors[PROJECTION]
            ours[PROJECTOR_BIAS] = bias if bias is not None else torch.zeros(len(tensors[PROJECTION]))
        if self.trained_spec is not None:
            encoder = {name: tensors[VIT + name] for name in map_timm_names(self.trained_spec)}
            ours |= {
                ENCODER_PREFIX + name: part for name, part in convert_from_timm(self.trained_spec, encoder).items()
            }
        return ours

    def convert_to_foundry(
        self, weights: Mapping[str, Tensor], encoder: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """A whole state dictionary of theirs from a language model's weights and an encoder's, with a new projector."""
        theirs = {name: weights[own] for own, name in self.transformer.items()} | self.build_buffers()
        if self.spec is not None:
            width = weights[EMBEDDINGS].shape[1]
            generator = torch.Generator().manual_seed(seed)
            theirs[PROJECTION] = torch.randn(width, self.spec.feature_width, generator=generator) * PROJECTOR_STD
            theirs |= {VIT + name: tensor for name, tensor in convert_to_timm(self.spec, encoder).items()}
        return theirs

    def build_buffers(self) -> dict[str, Tensor]:
        """The frequencies of its rotary positions, which it saves with each layer."""
        places = torch.arange(0, self.heads_width, 2).float() / self.heads_width
        return {
            f"{self.before}layers.{layer}.attention.{ROTARY_BUFFER}": 1.0 / (10_000**places)
            for layer in range(self.layers)
        }

    def convert_moments_from_foundry(self, optimizer: Mapping[str, Any]) -> dict[str, Tensor]:
        """AdamW's tensors under the names of a checkpoint of ours; KeyError if one is not there."""
        state = optimizer["state"]
        names = [name for group in self.group_by_decay() for name in group]
        found: dict[str, Tensor] = {}
        for kind in ("exp_avg", "exp_avg_sq"):
            theirs = {name: state[number][kind].float() for number, name in enumerate(names)}
            found |= {f"{kind}.{name}": tensor for name, tensor in self.convert_from_foundry(theirs).items()}
        steps = {name: torch.as_tensor(state[number]["step"], dtype=torch.float32) for number, name in enumerate(names)}
        return found | {f"step.{name}": steps[theirs].clone() for name, theirs in self.map_parameters().items()}

    def map_parameters(self) -> dict[str, str]:
        """Our names and the parameters of theirs that hold them."""
        found = dict(self.transformer)
        if self.spec is not None:
            found |= {PROJECTOR_WEIGHT: PROJECTION, PROJECTOR_BIAS: PROJECTION}
        for theirs, ours in map_timm_names(self.trained_spec).items() if self.trained_spec else ():
            found |= {ENCODER_PREFIX + name: VIT + theirs for name in ours}
        return found

    def convert_moments_to_foundry(
        self, moments: Mapping[str, Tensor], optimizer: Mapping[str, float]
    ) -> dict[str, Any]:
        """torch.optim.AdamW's state dictionary; a parameter without moments begins with none."""
        without, with_decay = self.group_by_decay()
        own = {theirs: name for name, theirs in self.transformer.items()}
        state = {
            number: {kind: moments[f"{kind}.{own[name]}"] for kind in MOMENTS}
            for number, name in enumerate([*without, *with_decay])
            if name in own and f"step.{own[name]}" in moments
        }
        group = {
            "lr": 0.0, "betas": (optimizer["beta1"], optimizer["beta2"]), "eps": optimizer["eps"], "amsgrad": False,
            "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None,
            "decoupled_weight_decay": True,
        }  # fmt: skip
        count, decay = len(without), optimizer["weight_decay"]
        return {
            "state": state,
            "param_groups": [
                {**group, "weight_decay": 0.0, "params": list(range(count))},
                {**group, "weight_decay": decay, "params": list(range(count, count + len(with_decay)))},
            ],
        }  # fmt: skip
