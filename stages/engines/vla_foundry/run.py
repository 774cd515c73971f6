"""vla_foundry (TRI-ML/vla_foundry) as the engine of a text trunk, and of an image-text run on captions.

Tried with 515b045. A run of it is cut as one of open_lm is: a segment goes on from the checkpoint of the one before, in
the schedule of the whole trunk, and is stopped once its last checkpoint is whole.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stages.checkpoint.openlm import read_pickle
from stages.config import PretrainConfig
from stages.engines.checkpoint import build_pretrain_result, save_engine_checkpoint
from stages.engines.engine import FOLDER, EngineCommand, build_exit_error, resolve_engine
from stages.engines.limits import find_engine_problem
from stages.engines.vla_foundry.checkpoint_files import (
    FoundryLog,
    build_part_path,
    find_nan_weight,
    list_checkpoint_numbers,
    read_state,
    read_weights,
    remove_checkpoint,
    remove_unusable_checkpoints,
)
from stages.engines.vla_foundry.data import (
    check_text_shards,
    plan_windows,
    read_shard_folder,
    write_processor,
    write_windows,
)
from stages.engines.vla_foundry.limits import compute_window_steps, select_source, uses_images
from stages.engines.vla_foundry.options import DATA, ENCODER, NAME, PROCESSOR, build_options, check_installation
from stages.engines.vla_foundry.start_checkpoint import (
    POSITION,
    build_new_position,
    load_parent_checkpoint,
    read_saved_position,
    write_start_checkpoint,
)
from stages.engines.vla_foundry.weights import FoundryWeightNames, write_encoder
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.result import Result
from stages.training.setup import load_tokenizer
from stages.vision.encoders import load_encoder_module, resolve_encoder_paths
from stages.vision.specs import resolve_encoder_spec


def open_run(job: JobFile) -> "FoundryRun":
    """The job in vla_foundry's hands; ConfigError for one that it cannot do."""
    if not isinstance(job.config, PretrainConfig):
        raise ConfigError(f"vla_foundry carries out pretrain jobs, not {job.stage}")
    if problem := find_engine_problem(job.config, "trunk" if job.config.vision is None else "pretrain"):
        raise ConfigError(problem)
    return FoundryRun(job, job.config)


class FoundryRun:
    """See `stages.engines.engine.EngineRun`."""

    def __init__(self, job: JobFile, config: PretrainConfig) -> None:
        self.job, self.config = job, config
        self.folder = job.run / FOLDER
        self.run = self.folder / "runs" / NAME
        self.checkpoints = self.run / "checkpoints"
        self.start = self.folder / "start"
        self.last_number = config.last_step // compute_window_steps(config)
        self.parent, self.continued = load_parent_checkpoint(job, config)
        self.first_step = self.parent.step if self.parent is not None and self.continued else 0
        self.log = FoundryLog(self.run / "out.log", config, first_step=self.first_step)

    def is_finished(self) -> bool:
        """The last checkpoint is whole and stands at the job's last step."""
        for number in (*list_checkpoint_numbers(self.checkpoints)[-1:], self.last_number):
            self.check_window(number)
        return read_state(self.checkpoints, self.last_number) is not None

    def check_window(self, number: int) -> None:
        """ConfigError if a window, once it is saved, has ended too early or too late."""
        state = read_state(self.checkpoints, number)
        wanted = number * compute_window_steps(self.config)
        if state is not None and state.get("global_step") != wanted:
            raise ConfigError(
                f"vla_foundry ended its window {number} at step {state.get('global_step')} and not {wanted}: "
                f"{select_source(self.config).name!r} has other samples than its manifest says, or some that cannot be "
                "read; run `sweep data check` on it"
            )

    def prepare(self) -> EngineCommand:
        _, settings = resolve_engine(self.job)
        images = uses_images(self.config)
        check_installation(settings, images=images)
        encoder = self.write_images() if images else None
        start, weights_only = self.restore(encoder)
        self.write_data()
        tree = build_options(self.config, log_steps=self.job.settings.log_steps, start=start, weights_only=weights_only)
        write_json(self.folder / "config.yaml", tree)  # JSON is YAML
        return EngineCommand(
            argv=(settings.python, "-m", "vla_foundry.main", "--config_path", "config.yaml"),
            folder=self.folder,
            # one process, whatever a scheduler says of its tasks; and nothing from a hub
            environment={
                "WORLD_SIZE": "1",
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )

    def write_images(self) -> nn.Module:
        """The encoder and the processor; gives the encoder."""
        vision, tokenizer = self.config.vision, self.config.tokenizer
        if vision is None or tokenizer is None:
            raise ConfigError("sources with images need both vision and tokenizer")
        spec = resolve_encoder_spec(vision.encoder)
        encoder = load_encoder_module(vision, resolve_encoder_paths(self.job, vision), torch.device("cpu"))
        write_encoder(spec, encoder, self.folder / ENCODER)
        vocabulary = self.config.model.vocabulary
        write_processor(load_tokenizer(self.job, tokenizer, vocabulary), spec, vocabulary, self.folder / PROCESSOR)
        return encoder

    def write_data(self) -> None:
        """The shards of this job's windows, and of one more: vla_foundry may open it before it is stopped."""
        config, name = self.config, select_source(self.config).name
        shards = read_shard_folder(name, self.job.resolve_data_path(name))
        if not uses_images(config):
            check_text_shards(shards, config.context)
        steps = compute_window_steps(config)
        windows = plan_windows(
            shards.sizes, windows=config.schedule.total_steps // steps, samples=steps * config.batch_sequences,
            seed=config.seed,
        )  # fmt: skip
        first = self.first_step // steps
        write_windows(shards, self.folder / DATA, windows, first=first, last=self.last_number + 1, seed=config.seed)

    def restore(self, encoder: nn.Module | None) -> tuple[str | None, bool]:
        """From which checkpoint vla_foundry is to go on, and whether with its weights alone.

        That is its own newest usable one, else one made of the parent's. The path is relative: it replaces a word in it
        to find the optimizer's file.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        newest = remove_unusable_checkpoints(self.checkpoints, compute_window_steps(self.config))
        for number in list_checkpoint_numbers(self.checkpoints):
            if number < newest:
                remove_checkpoint(self.checkpoints, number)
        if newest:
            return build_part_path(self.checkpoints, "checkpoint", newest).relative_to(self.folder).as_posix(), False
        if self.parent is None:
            return None, False
        number = self.first_step // compute_window_steps(self.config)
        position = read_saved_position(self.parent) if self.continued else build_new_position(self.config)
        write_start_checkpoint(
            self.config,
            self.parent,
            self.start,
            number=number,
            step=self.first_step,
            position=position,
            encoder=encoder,
        )
        fresh = not self.continued and self.config.optimizer_state == "fresh"
        return build_part_path(self.start, "checkpoint", number).relative_to(self.folder).as_posix(), fresh

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        return (record for record in self.log.read_records() if record["step"] <= self.config.last_step)

    def explain_failure(self, code: int) -> StageError:
        return build_exit_error("vla_foundry", code)

    def collect_result(self, seconds: float) -> Result:
        names = FoundryWeightNames(self.config)
        theirs = read_weights(self.checkpoints, self.last_number)
        # Why: docs/decisions.md, D63
        if odd := find_nan_weight(theirs):
            raise DivergedError(f"vla_foundry trained on with a loss that was not a number: {odd} has NaN or Inf")
        position = {name: value for name, value in self.read_last_state().items() if name in POSITION}
        try:
            weights = names.convert_from_foundry(theirs)
            moments = self.read_last_moments(names) if self.job.settings.keep_optimizer else None
        except KeyError as error:
            raise ConfigError(f"vla_foundry's checkpoint {self.last_number} is no such model: no {error}") from error
        made = save_engine_checkpoint(
            self.job, weights, moments,
            step=self.config.last_step, first_step=self.first_step, position={"kind": "vla_foundry", **position},
        )  # fmt: skip
        vision = self.config.vision if uses_images(self.config) else None
        # of captions vla_foundry says nothing but their number: one a sequence
        return build_pretrain_result(
            self.job, self.config, made,
            source=select_source(self.config).name, first_step=self.first_step, seconds=seconds,
            tokens_of_an_image=resolve_encoder_spec(vision.encoder).image_tokens if vision else 0,
        )  # fmt: skip

    def read_last_state(self) -> dict[str, Any]:
        """The last checkpoint's, but for its weights."""
        state = read_state(self.checkpoints, self.last_number) or {}
        return {name: value for name, value in state.items() if name != "state_dict"}

    def read_last_moments(self, names: FoundryWeightNames) -> dict[str, Tensor]:
        """AdamW's, of the last checkpoint."""
        content = read_pickle(build_part_path(self.checkpoints, "optimizer", self.last_number))
        return names.convert_moments_from_foundry(content["optimizer"])

    def clean_up(self) -> None:
        """The checkpoint of ours holds all that vla_foundry's did."""
        for folder in (self.checkpoints, self.start, self.folder / DATA, self.folder / ENCODER):
            shutil.rmtree(folder, ignore_errors=True)
