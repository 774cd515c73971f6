"""Where vla_foundry begins: a checkpoint of its own form, made of one of ours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.checkpoint.files import Checkpoint, check_has_moments, read_result_checkpoint
from stages.config import PretrainConfig
from stages.engines.vla_foundry.checkpoint_files import build_part_path
from stages.engines.vla_foundry.weights import FoundryWeightNames
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.training.start import build_trajectory

POSITION = ("curr_shard_idx_per_dataset", "samples_seen", "shard_shuffle_seed_per_dataset")


def load_parent_checkpoint(job: JobFile, config: PretrainConfig) -> tuple[Checkpoint | None, bool]:
    """The parent's checkpoint, and whether this job goes on with its run. ConfigError if it cannot be used."""
    if not job.parents:
        return None, False
    parent = job.parents[0]
    checkpoint = read_result_checkpoint(parent.run, parent.key)
    continued = checkpoint.state.get("trajectory") == build_trajectory(config)
    if checkpoint.state.get("model") != config.model.model_dump(mode="json"):
        raise ConfigError(f"parent {parent.key} has another model: {checkpoint.state.get('model')}")
    if config.vision is None and not continued:
        raise ConfigError(f"parent {parent.key}: vla_foundry goes on with text from a segment of its own trunk only")
    if config.vision is not None and checkpoint.state.get("vision") is not None:
        raise ConfigError(f"parent {parent.key} sees images already; vla_foundry takes a trunk here")
    if continued or config.optimizer_state == "carried":
        check_has_moments(checkpoint)
    return checkpoint, continued


def read_saved_position(checkpoint: Checkpoint) -> dict[str, Any]:
    """Where its data stand at the end of a segment; ConfigError if the checkpoint does not say so."""
    position = checkpoint.state.get("engine")
    if not isinstance(position, dict) or any(position.get(name) is None for name in POSITION):
        raise ConfigError(f"{checkpoint.path}: it does not say where vla_foundry's data stand")
    return {name: position[name] for name in POSITION}


def build_new_position(config: PretrainConfig) -> dict[str, Any]:
    """Of a run that begins."""
    return {
        "curr_shard_idx_per_dataset": [0],
        "samples_seen": 0,
        "shard_shuffle_seed_per_dataset": [config.seed],
    }


def write_start_checkpoint(
    config: PretrainConfig,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    number: int,
    step: int,
    position: dict[str, Any],
    encoder: nn.Module | None,
) -> None:
    """checkpoint_`number`.pt and optimizer_`number`.pt of a checkpoint of ours.

    A trunk that begins to see images gets an encoder and a new projector, whose moments begin with it.
    """  # fmt: skip
    names = FoundryWeightNames(config)
    own = {name: parameter.detach() for name, parameter in encoder.named_parameters()} if encoder else {}
    moments = checkpoint.read_moments()
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = names.convert_moments_to_foundry(moments, config.optimizer.model_dump())
    state = {
        "checkpoint_num": number,
        "state_dict": names.convert_to_foundry(checkpoint.read_weights(), own, config.seed),
        "datastrings": [],
        "global_step": step,
        **position,
    }
    torch.save(state, build_part_path(folder, "checkpoint", number))
    torch.save({"checkpoint_num": number, "optimizer": optimizer}, build_part_path(folder, "optimizer", number))
