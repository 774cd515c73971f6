"""The language model with its projector: image features enter as embeddings before the text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from stages.config import LanguageModel, Vision
from stages.models.attention import build_attention_mask
from stages.models.loss import LossSettings
from stages.models.openlm import OpenLM
from stages.vision.specs import resolve_encoder_spec

if TYPE_CHECKING:
    from stages.data.collate import MicroBatch

PROJECTOR_PREFIX = "projector."
ENCODER_PREFIX = "encoder."


def build_projector(kind: str, feature_width: int, d_model: int) -> nn.Sequential:
    """Encoder features (..., feature width) to the language model's width (the kinds are Prismatic's)."""
    if kind == "linear":
        return nn.Sequential(nn.Linear(feature_width, d_model))
    if kind == "gelu-mlp":
        return nn.Sequential(nn.Linear(feature_width, d_model), nn.GELU(), nn.Linear(d_model, d_model))
    if kind == "fused-gelu-mlp":
        wide = 4 * feature_width
        return nn.Sequential(
            nn.Linear(feature_width, wide), nn.GELU(), nn.Linear(wide, d_model), nn.GELU(), nn.Linear(d_model, d_model)
        )
    raise ValueError(f"projector {kind!r} is unknown; projectors are linear, gelu-mlp, fused-gelu-mlp")


class VLM(nn.Module):
    """An OpenLM and, where it sees images, a projector.

    A frozen encoder stays outside (`stages.vision.encoders`). One that is trained is given as `encoder` ((N, 3, S, S)
    uint8 to features (N, I, F)) and is a part of the model.
    """

    attention: Literal["sdpa", "flex"] = "sdpa"
    """Kernel for sequences of several documents, in `forward`."""

    def __init__(self, model: LanguageModel, vision: Vision | None = None, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.vision = vision
        self.lm = OpenLM(model)
        self.projector: nn.Sequential | None = None
        if vision is not None:
            width = resolve_encoder_spec(vision.encoder).feature_width
            self.projector = build_projector(vision.projector, width, model.d_model)
        self.encoder = encoder

    @property
    def image_tokens(self) -> int:
        """Positions that one image takes; 0 for a model that sees none."""
        return resolve_encoder_spec(self.vision.encoder).image_tokens if self.vision is not None else 0

    def forward(self, batch: "MicroBatch", *, count: int, settings: LossSettings) -> tuple[Tensor, Tensor]:
        """Loss of a part of a batch (a scalar), and the cross entropy of its M targets (M,), float32, without gradient.

        The loss is these targets' part of a mean over `count` (targets of the whole batch, or its sequences where the
        targets have weights), z-loss included: the parts' losses, and their gradients, add up.
        """
        embeddings = self.embed(batch.tokens, batch.images, batch.image_positions)
        mask = build_attention_mask(batch.documents, self.attention) if batch.documents is not None else None
        hidden = self.lm.compute_hidden(embeddings, mask=mask).flatten(0, 1)
        if batch.target_positions is not None:
            # the output layer is a good part of a small model: positions without a target are left out
            hidden = hidden.index_select(0, batch.target_positions)
        loss, entropies = self.lm.compute_loss(
            hidden, batch.targets, count=count, settings=settings, weights=batch.weights
        )
        if batch.images is None and self.projector is not None:
            loss = loss + self.touch_projector()
        return loss, entropies

    def touch_projector(self) -> Tensor:
        """A zero that depends on all parameters that images go through.

        Processes that train together expect a gradient of each parameter from each of them, with images or without.
        """
        touched = torch.zeros((), device=self.lm.output.weight.device)
        for part in (self.projector, self.encoder):
            for parameter in part.parameters() if part is not None else ():
                touched = touched + parameter.flatten()[:1].sum().float() * 0
        return touched

    def project(self, images: Tensor) -> Tensor:
        """To embeddings (N, I, D) from the frozen encoder's features (N, I, F), or from pixels (N, 3, S, S) uint8 for
        an encoder of the model's own.
        """
        if self.projector is None:
            raise ValueError("this model sees no images")
        features = self.encoder(images) if self.encoder is not None else images
        embeddings: Tensor = self.projector(features)
        return embeddings

    def embed(self, tokens: Tensor, images: Tensor | None = None, image_positions: Tensor | None = None) -> Tensor:
        """Embeddings (B, T, D) of token ids (B, T), with images in place.

        `images` are what `project` takes; `image_positions` (N, I) says which place of the flattened (B*T) tokens each
        image token takes (the token id there is ignored).
        """
        embeddings = self.lm.embed(tokens)
        if images is None or image_positions is None or not images.shape[0]:
            return embeddings
        projected = self.project(images).to(embeddings.dtype)
        batch, length, width = embeddings.shape
        flat = embeddings.reshape(batch * length, width)
        return flat.index_copy(0, image_positions.reshape(-1), projected.reshape(-1, width)).view(batch, length, width)

    def collect_weights(self) -> dict[str, Tensor]:
        """All weights under a checkpoint's names: open_lm's, behind `projector.` and `encoder.` the others."""
        return {name: parameter.detach() for name, parameter in self.iter_named_weights()}

    def iter_named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters under their names in a checkpoint, always in the same order."""
        yield from self.lm.named_parameters()
        if self.projector is not None:
            for name, parameter in self.projector.named_parameters():
                yield PROJECTOR_PREFIX + name, parameter
        if self.encoder is not None:
            for name, parameter in self.encoder.named_parameters():
                yield ENCODER_PREFIX + name, parameter

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor], *, new_projector: bool = False) -> None:
        """Takes over a checkpoint's weights; ValueError if a name or shape differs.

        `new_projector` allows a checkpoint of a model that saw no images: what they go through stays as it is.
        """
        own = dict(self.iter_named_weights())
        if new_projector:
            own = {name: own[name] for name in own if not name.startswith((PROJECTOR_PREFIX, ENCODER_PREFIX))}
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())
            raise ValueError(f"the checkpoint's weights differ from the model's: {', '.join(odd[:4])}")
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise ValueError(f"{name}: shape {tuple(weights[name].shape)}; the model has {tuple(parameter.shape)}")
            parameter.copy_(weights[name])
