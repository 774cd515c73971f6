"""A row of scores as figures are drawn from, with what a test says of it."""

from typing import Any


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "key": "k",
        "model": "2m",
        "branch": 0.0,
        "image_share": 0.5,
        "instruction_share": 0.0,
        "captions": "dense",
        "encoder": "patches",
        "freeze_encoder": True,
        "amount": 1.0,
        "text_multiplier": 1.0,
        "lr_at_branch": "auto",
        "seed": 0,
        "epochs": 1,
        "overrides": [],
        "vision_stable_score": 0.2,
        "vision_stable_stderr": 0.01,
        "vision_chance": 0.25,
    }
    return base | changes
