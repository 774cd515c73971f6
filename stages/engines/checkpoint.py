"""What an engine made, as ours: its weights as a checkpoint, checked against the job's model, and its counts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.checkpoint.files import load_model, save_checkpoint
from stages.config import FinetuneConfig, PretrainConfig
from stages.engines.log import read_last_loss
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.models.vlm import VLM
from stages.result import Result, render_relative_path
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


def build_pretrain_result(
    job: JobFile,
    config: PretrainConfig,
    checkpoint: Path,
    *,
    source: str,
    first_step: int,
    seconds: float,
    tokens_of_an_image: int = 0,
) -> Result:
    """The counts of a run over whole batches of one data set, from `first_step` to the job's last step.

    These programs say nothing of padding. With `tokens_of_an_image` each sequence holds one image.
    """
    steps = config.last_step - first_step
    tokens, sequences = steps * config.step_tokens, steps * config.batch_sequences
    images = sequences if tokens_of_an_image else 0
    image_tokens = images * tokens_of_an_image
    taken = {
        "sequences": sequences, "samples": sequences, "tokens": tokens, "image_tokens": image_tokens, "images": images,
    }  # fmt: skip
    return Result(
        steps=steps,
        tokens=tokens,
        image_tokens=image_tokens,
        images=images,
        sources={source: taken},
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        loss=read_last_loss(job.metrics),
        checkpoint=render_relative_path(job, checkpoint),
    )
