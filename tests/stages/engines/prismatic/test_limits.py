from typing import Any

import pytest

from stages.config import LanguageModel, Vision
from stages.engines.limits import find_engine_problem, find_model_problem
from tests.stages.engines.prismatic.prismatic_case import ENGINE, MODEL, OPTIMIZER, VISION, typed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"beta2": 0.95}}, "beta2 0.999 and no setting for it, and 0.95 is asked for"),
        ({"optimizer": {**OPTIMIZER, "eps": 1e-6}}, "eps 1e-08"),
        ({"final_lr": 1e-5}, "set finetune.final_lr to 0"),
        ({"loss_mean": "sequences"}, "not over sequences; set finetune.loss_mean: tokens"),
        ({"engine": {**ENGINE, "arguments": {"learning_rate": 0.1}}}, "learning_rate is unknown or follows"),
        ({"engine": {**ENGINE, "arguments": {"per_device_batch_size": 3}}}, "3 must divide the batch of 4"),
        ({"engine": {**ENGINE, "arguments": {"per_device_batch_size": 0}}}, "0 must divide"),
        ({"engine": {**ENGINE, "arguments": {"reduce_in_full_precision": 1}}}, "true or false"),
        ({"engine": {**ENGINE, "command": ["x"]}}, "program is known"),
    ],
)  # fmt: skip
def test_what_prismatic_cannot_do_is_known_when_it_is_planned(changes: dict[str, Any], message: str) -> None:
    assert message in find_engine_problem(typed(**changes), "finetune")
    assert find_engine_problem(typed(), "finetune") == ""
    assert "takes finetune and not pretrain" in find_engine_problem(typed(), "pretrain")


@pytest.mark.parametrize(
    ("vision", "changes", "message"),
    [
        (None, {}, "sees no images"),
        ({"encoder": "patches-16-64"}, {}, "no encoder patches-16-64"),
        ({**VISION, "frozen": False}, {}, "pre-train with it frozen"),
        ({"encoder": "siglip+dinov2", "transform": "letterbox"}, {}, "resize-naive"),
        (VISION, {"precision": "bf16"}, "rotary_table: bfloat16"),
        (VISION, {"max_length": 729}, "no room for an image of 729 tokens"),
    ],
)
def test_models_that_prismatic_cannot_take_are_known_too(
    vision: dict[str, Any] | None, changes: dict[str, Any], message: str
) -> None:
    model = LanguageModel.model_validate(MODEL)
    assert message in find_model_problem(typed(**changes), model, Vision.model_validate(vision) if vision else None)
    assert find_model_problem(typed(), model, Vision.model_validate(VISION)) == ""
