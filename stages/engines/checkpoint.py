"""Weights that an engine made, checked against the job's model and saved as a checkpoint of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.checkpoint.files import load_model, save_checkpoint
from stages.config import FinetuneConfig, PretrainConfig
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.models.vlm import VLM
from stages.training.finetune import build_checkpoint_metadata as finetuned_state
from stages.training.setup import load_tokenizer
from stages.training.start import build_checkpoint_metadata as pretrained_state
from stages.vision.encoders import build_encoder_module


def build_job_model(job: JobFile) -> tuple[VLM, dict[str, Any]]:
    """A model of the form that a training job is to give, and what its checkpoint says of it.

    ConfigError for a stage that trains nothing.
    """
    config = job.config
    if isinstance(config, PretrainConfig):
        vision = config.vision
        return VLM(config.model, vision, build_encoder_module(vision) if vision else None), pretrained_state(config)
    if isinstance(config, FinetuneConfig):
        parent = job.parents[0]
        vlm = load_model(parent.run, parent.key).vlm
        tokenizer = load_tokenizer(job, config.tokenizer, vlm.lm.config.vocabulary)
        return vlm, finetuned_state(config, vlm, tokenizer)
    raise ConfigError(f"{job.stage} makes no checkpoint")


def save_engine_checkpoint(
    job: JobFile,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor] | None,
    *,
    step: int,
    first_step: int,
    position: Mapping[str, Any],
) -> Path:
    """Saves float32 copies of `weights` as the job's checkpoint of `step`; ConfigError if they are no such model.

    `position`: what the engine needs to go on from here, kept as `engine` in state.json.
    """
    vlm, fixed = build_job_model(job)
    floats = {name: tensor.float() for name, tensor in weights.items()}
    try:
        vlm.load_weights(floats)
    except ValueError as error:
        raise ConfigError(f"the engine's weights are not the job's model: {error}") from error
    state = {**fixed, "step": step, "first_step": first_step, "engine": dict(position)}
    return save_checkpoint(job.checkpoints, state, floats, moments)
