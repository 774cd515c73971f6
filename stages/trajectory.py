"""What a pre-training checkpoint says of its run besides the weights and the position."""

from typing import Any

from stages.config import PretrainConfig


def fixed_state(config: PretrainConfig) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step."""
    return {
        "format": 1,
        "stage": "pretrain",
        "model": config.model.model_dump(mode="json"),
        "vision": config.vision.model_dump(mode="json") if config.vision else None,
        "tokenizer": config.tokenizer.model_dump(mode="json") if config.tokenizer else None,
        "trajectory": trajectory(config),
    }


def trajectory(config: PretrainConfig) -> dict[str, Any]:
    """All that decides a run's numbers but where it stops: equal for all segments of a trunk."""
    content = config.model_copy(update={"stop_step": None}).model_dump(mode="json")
    if config.engine is None:
        del content["engine"]  # checkpoints from before there were engines do not name it
    return content
