import subprocess
import sys

import pytest

from stages.config import LanguageModel, Vision
from stages.flops import (
    compute_image_cost,
    count_forward_flops,
    count_matrix_weights,
    count_projector_biases,
    count_projector_weights,
    count_step_flops,
    count_training_flops,
)
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import load_catalog

TINY = LanguageModel(d_model=8, layers=2, heads=2, vocabulary=10)


def test_matrix_weights_leave_out_the_embedding_and_the_gains() -> None:
    # a block: q, k, v, out of 8 x 8; gate, up, down of 8 x 256
    assert count_matrix_weights(TINY) == 2 * (4 * 64 + 3 * 8 * 256) + 10 * 8
    for model in (entry.shape for entry in load_catalog().models.values()):
        gains = 2 * model.d_model * model.layers + model.d_model
        assert count_matrix_weights(model) == model.parameters - model.vocabulary * model.d_model - gains


def test_forward_flops_equal_a_count_over_every_matrix_product_of_a_sequence() -> None:
    context, d, h = 16, TINY.d_model, TINY.feed_forward_width

    def product(rows: int, inner: int, cols: int) -> int:
        return 2 * rows * inner * cols

    block = product(context, d, 3 * d) + product(context, d, d) + product(context, d, 2 * h) + product(context, h, d)
    scores_and_sum = product(context, d, context) + product(context, context, d)
    counted = TINY.layers * (block + scores_and_sum / 2) + product(context, d, TINY.vocabulary)
    assert count_forward_flops(TINY, context) * context == counted


def test_training_is_three_forwards() -> None:
    assert count_training_flops(TINY, 32) == 3 * count_forward_flops(TINY, 32)


@pytest.mark.parametrize(
    ("name", "per_token"),
    # 6 x matrix weights + 6 x layers x d_model x 2,048
    [("79m", 6 * 53_084_160 + 6 * 8 * 512 * 2_048), ("1.4b", 6 * 1_336_410_112 + 6 * 24 * 2_048 * 2_048)],
)
def test_training_flops_of_the_papers_models(name: str, per_token: int) -> None:
    assert count_training_flops(load_catalog().models[name].shape, 2_048) == per_token


@pytest.mark.parametrize(
    ("kind", "matrices", "biases"),
    [
        ("linear", 1_152 * 2_048, 2_048),
        ("gelu-mlp", 1_152 * 2_048 + 2_048**2, 2 * 2_048),
        ("fused-gelu-mlp", 1_152 * 4_608 + 4_608 * 2_048 + 2_048**2, 4_608 + 2 * 2_048),
    ],
)
def test_projector_weights(kind: str, matrices: int, biases: int) -> None:
    assert count_projector_weights(kind, 1_152, 2_048) == matrices
    assert count_projector_biases(kind, 1_152, 2_048) == biases


def test_an_unknown_projector_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="projectors are linear, gelu-mlp, fused-gelu-mlp"):
        count_projector_weights("mlp", 8, 8)


def test_a_step_counts_language_model_projector_and_encoder() -> None:
    siglip = resolve_encoder_spec("siglip-so400m-14-384")
    frozen = Vision(encoder=siglip.name)
    text = 2_048 * count_training_flops(TINY, 64)
    assert count_step_flops(TINY, 64, 2_048) == count_step_flops(TINY, 64, 2_048, frozen) == text
    projector = 6 * 729 * (1_152 * 8 + 8 * 8)
    assert count_step_flops(TINY, 64, 2_048, frozen, 2) == text + 2 * projector + 2 * siglip.flops
    trained = frozen.model_copy(update={"frozen": False})
    assert count_step_flops(TINY, 64, 2_048, trained, 2) == text + 2 * projector + 6 * siglip.flops
    assert count_step_flops(TINY, 64, 2_048, frozen, 2, encoded=0) == text + 2 * projector


def test_features_are_kept_of_frozen_encoders_that_compute_something() -> None:
    sizes = {
        (encoder, frozen): compute_image_cost(encoder, "gelu-mlp", frozen, 8).feature_bytes
        for encoder in ("siglip-so400m-14-384", "siglip+dinov2", "patches")
        for frozen in (True, False)
    }
    assert {each: size for each, size in sizes.items() if size} == {
        ("siglip-so400m-14-384", True): 729 * 1_152 * 2,
        ("siglip+dinov2", True): 729 * 2_176 * 2,
    }


def test_the_flops_are_counted_without_torch() -> None:
    code = "import sys, stages.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
