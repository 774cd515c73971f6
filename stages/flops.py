"""FLOPs of training and inference, from shapes: for the planner's estimates, and for the utilisation that a run logs.

Torch-free. A multiply-add counts two. Convention (as nanoGPT and PaLM's appendix B count, with the causal half of the
attention):

- matrices: 2 FLOPs a weight and token forward, twice that backward, so 6 in training. The weights of the blocks and of
  the output layer count; the input embedding is a look-up and does not.
- attention: scores and weighted sum, 2 x 2 x context x d_model a layer and token forward, of which a causal mask needs
  half; three times that in training: 6 x layers x d_model x context. Documents that are packed into one sequence count
  as if they saw each other: the context is the configured one, whatever lies in it, and padding counts as text does.
- projector: as the language model's matrices, for each image token.
- vision encoder: one forward an image while it is frozen, three where it is trained (`stages.vision.specs`).
- norms, rotary positions, SwiGLU's product, softmax and the optimizer are left out (below 1 % together), and so is what
  is computed twice under activation checkpointing: utilisation is of the model's FLOPs, not of the hardware's.
"""

from dataclasses import dataclass
from functools import cache

from stages.config import LanguageModel, Vision
from stages.vision.specs import resolve_encoder_spec


@cache
def count_matrix_weights(model: LanguageModel) -> int:
    """Weights that multiply every token: blocks and output layer."""
    block = 4 * model.d_model**2 + 3 * model.d_model * model.feed_forward_width
    return model.layers * block + model.vocabulary * model.d_model


@cache
def count_forward_flops(model: LanguageModel, context: int) -> float:
    """One token's share of a forward of `context` tokens."""
    return 2.0 * count_matrix_weights(model) + 2.0 * model.layers * model.d_model * context


def count_training_flops(model: LanguageModel, context: int) -> float:
    """One token's share of a forward and backward of `context` tokens."""
    return 3 * count_forward_flops(model, context)


def count_step_flops(
    model: LanguageModel,
    context: int,
    tokens: float,
    vision: Vision | None = None,
    images: float = 0,
    *,
    encoded: float | None = None,
) -> float:
    """Training on `tokens` positions (image tokens and padding included) in sequences of `context`, with `images`.

    `encoded`: images of them that went through the vision encoder; all, unless its features were kept from before.

    Raises:
        stages.vision.specs.UnknownEncoderError: no such encoder.
    """
    flops = tokens * count_training_flops(model, context)
    if vision is None or not images:
        return flops
    image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model)
    return flops + images * image.projector_flops + (images if encoded is None else encoded) * image.encoder_flops


@dataclass(frozen=True, slots=True)
class ImageCost:
    """One image on its way into the language model."""

    tokens: int
    encoder_flops: float
    projector_flops: float
    """Forward and backward."""
    weights: int
    """Trained beside the language model: the projector's, and the encoder's where it is not frozen."""
    feature_bytes: int = 0
    """Of its features, kept on disk; 0 where there is nothing to keep: no encoder, or one that is trained."""


@cache
def compute_image_cost(encoder: str, projector: str, frozen: bool, d_model: int) -> ImageCost:
    """Encoder forward only while it is frozen, three times that where it is trained; projector always trained.

    Raises:
        stages.vision.specs.UnknownEncoderError: no such encoder.
    """
    spec = resolve_encoder_spec(encoder)
    weights = count_projector_weights(projector, spec.feature_width, d_model)
    return ImageCost(
        tokens=spec.image_tokens,
        encoder_flops=spec.flops * (1 if frozen else 3),
        projector_flops=6.0 * weights * spec.image_tokens,
        weights=weights
        + count_projector_biases(projector, spec.feature_width, d_model)
        + (0 if frozen else spec.parameters),
        feature_bytes=spec.feature_bytes if frozen and spec.flops else 0,
    )


@cache
def count_projector_weights(projector: str, feature_width: int, d_model: int) -> int:
    """Matrix weights of a projector kind of `stages.config.Vision`, from encoder features to the model's width.

    `fused-gelu-mlp` is Prismatic's three linears, the first four times as wide as its input.
    """
    if projector == "linear":
        return feature_width * d_model
    if projector == "gelu-mlp":
        return feature_width * d_model + d_model**2
    if projector == "fused-gelu-mlp":
        return 4 * feature_width**2 + 4 * feature_width * d_model + d_model**2
    raise ValueError(f"projector {projector!r} is unknown; projectors are linear, gelu-mlp, fused-gelu-mlp")


@cache
def count_projector_biases(projector: str, feature_width: int, d_model: int) -> int:
    """Weights of a projector that are in no matrix: a checkpoint holds them, no FLOP counts them."""
    return {"linear": d_model, "gelu-mlp": 2 * d_model, "fused-gelu-mlp": 4 * feature_width + 2 * d_model}[projector]
