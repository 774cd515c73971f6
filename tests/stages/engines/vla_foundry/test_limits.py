from typing import Any

import pytest

from stages.engines.limits import find_engine_problem
from tests.stages.engines.vla_foundry import vla_foundry_case as case

TEXTS = [{"name": "a", "kind": "text", "share": 0.5}, {"name": "b", "kind": "text", "share": 0.5}]
VISION = {"encoder": "patches-16-32", "projector": "linear"}


def arguments(**given: Any) -> dict[str, Any]:
    return {"engine": {**case.ENGINE, "arguments": given}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (arguments(num_checkpoints=3), "8 steps, which 3 checkpoints do not divide"),
        (arguments(num_checkpoints=0), "whole number above 0"),
        (arguments(num_checkpoints=True), "whole number above 0"),
        (arguments(lr=0.1), "lr is none that can be given"),
        (arguments(**{"hparams.per_gpu_batch_size": 3}), "3 does not divide batch_sequences 4"),
        ({"stop_step": 3}, "branches off at step 3, and vla_foundry saves every 4 steps only"),
        ({"precision": "bf16"}, "keeps the weights themselves in bfloat16"),
        ({"model": {**case.SHAPE, "rotary_table": "bfloat16"}}, "rotary_table: float32"),
        ({"schedule": {"peak_lr": 1e-3, "final_lr": 1e-2, "total_steps": 8}}, "its rates only fall"),
        ({"sources": TEXTS}, "one text data set"),
    ],
)
def test_what_vla_foundry_cannot_do_on_text_is_known_before_it_starts(changes: dict[str, Any], message: str) -> None:
    assert message in find_engine_problem(case.typed(case.text_job(**changes)), "trunk")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"name": "a", "kind": "text", "share": 0.5},
                      {"name": "captions", "kind": "captions", "share": 0.5}]}, "one data set of captions"),
        ({"sources": [{"name": "captions", "kind": "captions", "field": "syn_text"}]}, "reads the text file only"),
        ({"packing": "packed"}, "pretrain.packing: padded"),
        ({"loss_mean": "sequences"}, "not over sequences; set pretrain.loss_mean: tokens"),
        (arguments(**{"hparams.grad_checkpointing": True}), "its timm encoders have none"),
        ({"vision": {**VISION, "projector": "gelu-mlp"}}, "pretrain.projector: linear"),
        ({"vision": {**VISION, "transform": "letterbox"}}, "image_transform: resize-naive"),
        ({"vision": {**VISION, "encoder": "dinov2-tiny-reg-32"}}, "class and registers too"),
        ({"vision": {**VISION, "encoder": "efficientnet-lite0"}}, "take one of SigLIP's, or patches"),
        ({"vision": {**VISION, "encoder": "patches-4-32"}}, "no room for the 64 tokens of an image"),
    ],
)  # fmt: skip
def test_what_vla_foundry_cannot_do_on_images_is_known_before_it_starts(changes: dict[str, Any], message: str) -> None:
    assert message in find_engine_problem(case.typed(case.image_job(**changes)), "pretrain")


def test_vla_foundry_trains_trunks_and_image_text_runs_only() -> None:
    assert (
        find_engine_problem(case.config_of("text"), "trunk")
        == find_engine_problem(case.config_of("siglip"), "pretrain")
        == ""
    )
    assert "set image_share: 1" in find_engine_problem(case.config_of("text"), "pretrain")
    assert "takes trunk, pretrain and not finetune" in find_engine_problem(case.config_of("text"), "finetune")
