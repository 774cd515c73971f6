"""The language model with its projector: image features enter as embeddings before the text."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stages.config import LanguageModel, Vision
from stages.encoders import encoder_spec
from stages.openlm import OpenLM

PROJECTOR_PREFIX = "projector."


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
    """An OpenLM and, where it sees images, a projector. The frozen encoder stays outside (`stages.vision`)."""

    def __init__(self, model: LanguageModel, vision: Vision | None = None) -> None:
        super().__init__()
        self.vision = vision
        self.lm = OpenLM(model)
        self.projector: nn.Sequential | None = None
        if vision is not None:
            width = encoder_spec(vision.encoder).feature_width
            self.projector = build_projector(vision.projector, width, model.d_model)

    @property
    def image_tokens(self) -> int:
        """Positions that one image takes; 0 for a model that sees none."""
        return encoder_spec(self.vision.encoder).image_tokens if self.vision is not None else 0

    def project(self, features: Tensor) -> Tensor:
        """Encoder features (N, I, F) to embeddings (N, I, D)."""
        if self.projector is None:
            raise ValueError("this model sees no images")
        embeddings: Tensor = self.projector(features)
        return embeddings

    def embed(self, tokens: Tensor, features: Tensor | None = None, image_positions: Tensor | None = None) -> Tensor:
        """Embeddings (B, T, D) of token ids (B, T), with images in place.

        `features` (N, I, F) are the encoder's; `image_positions` (N, I) says which place of the flattened (B*T) tokens
        each image token takes (the token id there is ignored).
        """
        embeddings = self.lm.embed(tokens)
        if features is None or image_positions is None or not features.shape[0]:
            return embeddings
        images = self.project(features).to(embeddings.dtype)
        batch, length, width = embeddings.shape
        flat = embeddings.reshape(batch * length, width)
        return flat.index_copy(0, image_positions.reshape(-1), images.reshape(-1, width)).view(batch, length, width)

    def weights(self) -> dict[str, Tensor]:
        """All weights under the names of a checkpoint: open_lm's, the projector's behind `projector.`."""
        return {name: parameter.detach() for name, parameter in self.named_weights()}

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters under their names in a checkpoint, always in the same order."""
        yield from self.lm.named_parameters()
        if self.projector is not None:
            for name, parameter in self.projector.named_parameters():
                yield PROJECTOR_PREFIX + name, parameter

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor], *, new_projector: bool = False) -> None:
        """Takes over a checkpoint's weights; ValueError if a name or shape differs.

        `new_projector` allows a checkpoint without one: the model's own stays as it is.
        """
        own = dict(self.named_weights())
        if new_projector:
            own = {name: own[name] for name in own if not name.startswith(PROJECTOR_PREFIX)}
        if own.keys() != weights.keys():
            odd = sorted(own.keys() ^ weights.keys())
            raise ValueError(f"the checkpoint's weights differ from the model's: {', '.join(odd[:4])}")
        for name, parameter in own.items():
            if parameter.shape != weights[name].shape:
                raise ValueError(f"{name}: shape {tuple(weights[name].shape)}; the model has {tuple(parameter.shape)}")
            parameter.copy_(weights[name])
