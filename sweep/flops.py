"""FLOPs of the language model and the projector, from their shapes. A multiply-add counts two.

Convention (as nanoGPT and PaLM's appendix B count, with the causal half of the attention):

- matrices: 2 FLOPs a weight and token forward, twice that backward, so 6 in training. The weights of the blocks and of
  the output layer count; the input embedding is a look-up and does not.
- attention: scores and weighted sum, 2 x 2 x context x d_model a layer and token forward, of which a causal mask needs
  half; three times that in training: 6 x layers x d_model x context.
- norms, rotary positions, SwiGLU's product, softmax and the optimizer are left out (below 1 % together).
"""

from functools import cache

from stages.config import LanguageModel


@cache
def matrix_weights(model: LanguageModel) -> int:
    """Weights that multiply every token: blocks and output layer."""
    block = 4 * model.d_model**2 + 3 * model.d_model * model.feed_forward_width
    return model.layers * block + model.vocabulary * model.d_model


@cache
def forward_flops(model: LanguageModel, context: int) -> float:
    """One token's share of a forward of `context` tokens."""
    return 2.0 * matrix_weights(model) + 2.0 * model.layers * model.d_model * context


def training_flops(model: LanguageModel, context: int) -> float:
    """One token's share of a forward and backward of `context` tokens."""
    return 3 * forward_flops(model, context)


@cache
def projector_weights(projector: str, feature_width: int, d_model: int) -> int:
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
def projector_biases(projector: str, feature_width: int, d_model: int) -> int:
    """Weights of a projector that are in no matrix: a checkpoint holds them, no FLOP counts them."""
    return {"linear": d_model, "gelu-mlp": 2 * d_model, "fused-gelu-mlp": 4 * feature_width + 2 * d_model}[projector]
