"""The names of vla_foundry's weights, and AdamW's moments as its optimizer numbers them, from ours and back.

Its transformer is our language model with another name for the embeddings. Its projector has no bias: ours begins as
zero there. A frozen encoder is in its checkpoints and not in ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stages.config import PretrainConfig
from stages.encoder_spec import EncoderSpec
from stages.engines.vla_foundry.limits import with_images
from stages.engines.vla_foundry_encoder import from_timm, names_of, to_timm
from stages.models.openlm import OpenLM
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX
from stages.vision.specs import encoder_spec

EMBEDDINGS, THEIR_EMBEDDINGS = "tok_embeddings.weight", "embeddings.weight"
TRANSFORMER, PROJECTION, VIT = "transformer.", "projection.proj.weight", "vit.model."
ROTARY_BUFFER = "pos_embed.inv_freq"
PROJECTOR_WEIGHT, PROJECTOR_BIAS = f"{PROJECTOR_PREFIX}0.weight", f"{PROJECTOR_PREFIX}0.bias"
PROJECTOR_STD = 0.02
"""Of its projector's initial weights, a normal distribution."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Names:
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
        if with_images(config) and config.vision is not None:
            before, self.spec = TRANSFORMER, encoder_spec(config.vision.encoder)
            self.trained_spec = None if config.vision.frozen or self.spec.architecture == "patches" else self.spec
        self.before = before
        self.transformer = {name: before + name.replace(EMBEDDINGS, THEIR_EMBEDDINGS) for name in ours}

    def trained(self) -> list[str]:
        """Its parameters that take a gradient: encoder, transformer, projector."""
        encoder = [VIT + name for name in names_of(self.trained_spec)] if self.trained_spec else []
        return [*encoder, *self.transformer.values(), *([PROJECTION] if self.spec else [])]

    def numbered(self) -> tuple[list[str], list[str]]:
        """The parameters in the order in which its optimizer counts them: without weight decay, then with it."""
        without = [name for name in self.trained() if name.endswith(".bias") or "norm" in name.lower()]
        return without, [name for name in self.trained() if name not in set(without)]

    def from_theirs(self, tensors: Mapping[str, Tensor], *, bias: Tensor | None = None) -> dict[str, Tensor]:
        """Their weights (or moments) under our names. KeyError names the first that is not there.

        `bias`: of the projector, which they do not have; zeros.
        """
        ours = {name: tensors[theirs] for name, theirs in self.transformer.items()}
        if self.spec is not None:
            ours[PROJECTOR_WEIGHT] = tensors[PROJECTION]
            ours[PROJECTOR_BIAS] = bias if bias is not None else torch.zeros(len(tensors[PROJECTION]))
        if self.trained_spec is not None:
            encoder = {name: tensors[VIT + name] for name in names_of(self.trained_spec)}
            ours |= {ENCODER_PREFIX + name: part for name, part in from_timm(self.trained_spec, encoder).items()}
        return ours

    def to_theirs(self, weights: Mapping[str, Tensor], encoder: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """A whole state dictionary of theirs from a language model's weights and an encoder's, with a new projector."""
        theirs = {name: weights[own] for own, name in self.transformer.items()} | self.buffers()
        if self.spec is not None:
            width = weights[EMBEDDINGS].shape[1]
            generator = torch.Generator().manual_seed(seed)
            theirs[PROJECTION] = torch.randn(width, self.spec.feature_width, generator=generator) * PROJECTOR_STD
            theirs |= {VIT + name: tensor for name, tensor in to_timm(self.spec, encoder).items()}
        return theirs

    def buffers(self) -> dict[str, Tensor]:
        """The frequencies of its rotary positions, which it saves with each layer."""
        places = torch.arange(0, self.heads_width, 2).float() / self.heads_width
        return {
            f"{self.before}layers.{layer}.attention.{ROTARY_BUFFER}": 1.0 / (10_000**places)
            for layer in range(self.layers)
        }

    def moments_from_theirs(self, optimizer: Mapping[str, Any]) -> dict[str, Tensor]:
        """AdamW's tensors under the names of a checkpoint of ours; KeyError if one is not there."""
        state = optimizer["state"]
        names = [name for group in self.numbered() for name in group]
        found: dict[str, Tensor] = {}
        for kind in ("exp_avg", "exp_avg_sq"):
            theirs = {name: state[number][kind].float() for number, name in enumerate(names)}
            found |= {f"{kind}.{name}": tensor for name, tensor in self.from_theirs(theirs).items()}
        steps = {name: torch.as_tensor(state[number]["step"], dtype=torch.float32) for number, name in enumerate(names)}
        return found | {f"step.{name}": steps[theirs].clone() for name, theirs in self.holders().items()}

    def holders(self) -> dict[str, str]:
        """Our names and the parameters of theirs that hold them."""
        found = dict(self.transformer)
        if self.spec is not None:
            found |= {PROJECTOR_WEIGHT: PROJECTION, PROJECTOR_BIAS: PROJECTION}
        for theirs, ours in names_of(self.trained_spec).items() if self.trained_spec else ():
            found |= {ENCODER_PREFIX + name: VIT + theirs for name in ours}
        return found

    def moments_to_theirs(self, moments: Mapping[str, Tensor], optimizer: Mapping[str, float]) -> dict[str, Any]:
        """torch.optim.AdamW's state dictionary; a parameter without moments begins with none."""
        without, with_decay = self.numbered()
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
