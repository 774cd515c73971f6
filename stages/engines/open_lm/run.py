"""open_lm (mlfoundations/open_lm) as the engine of a text trunk.

Tried with the branch prismatic_openlm (8ddc185). A trunk's segments are one run of open_lm, cut: each goes on from the
checkpoint of the one before, with `--resume latest`, in the schedule of the whole trunk; as open_lm cannot stop before
its schedule's end, it is stopped once the segment's last checkpoint is whole.
"""

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stages.checkpoint.files import read_result_checkpoint
from stages.checkpoint.openlm import export_run, read_moments, read_pickle, read_weights
from stages.config import PretrainConfig
from stages.engines.checkpoint import build_pretrain_result, save_engine_checkpoint
from stages.engines.engine import FOLDER, EngineCommand, build_exit_error, resolve_engine
from stages.engines.limits import compute_epoch_steps, find_engine_problem
from stages.engines.log import LogFollower, parse_progress
from stages.engines.open_lm.data import plan_shard_reads, read_shards, write_data
from stages.engines.open_lm.options import NAME, build_model_options, build_options, check_installation
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.models.openlm import OpenLM
from stages.result import Result
from stages.training.start import build_trajectory

# The checkpoints of an open_lm run, by the order in which it writes them: epoch_N.pt, optimizer_N.pt, stats_N.pt.

PARTS = ("epoch", "optimizer", "stats")


def build_part_path(folder: Path, name: str, number: int) -> Path:
    """One of the files of checkpoint `number`."""
    return folder / f"{name}_{number}.pt"


def read_stats(folder: Path, number: int) -> dict[str, Any] | None:
    """What checkpoint `number` says of itself; None unless all of its files are there and the last one is whole."""
    if not all(build_part_path(folder, name, number).is_file() for name in PARTS):
        return None
    try:
        return read_pickle(build_part_path(folder, "stats", number))
    except ConfigError:
        return None


def list_checkpoint_numbers(folder: Path) -> list[int]:
    """Of all checkpoints of which there is a file, whole or not, ascending."""
    found = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(?:epoch|optimizer|stats)_(\d+)\.pt", path.name))
    }
    return sorted(found)


def remove_unfinished_checkpoints(folder: Path) -> int:
    """Removes checkpoints that were not written to their end, which `--resume latest` would take; the newest's number
    that is left, 0 for none."""
    newest = 0
    for number in list_checkpoint_numbers(folder):
        if read_stats(folder, number) is None:
            remove_checkpoint(folder, number)
        else:
            newest = number
    return newest


def remove_checkpoint(folder: Path, number: int) -> None:
    """A checkpoint's files: the one that says that they are whole goes first."""
    for name in reversed(PARTS):
        build_part_path(folder, name, number).unlink(missing_ok=True)


# open_lm's out.log: its lines of progress as lines of metrics.jsonl.

NOT_A_NUMBER = "Training exiting due to NaN value"


class OpenLMLog:
    """Metrics of a run, steps that were done twice included."""

    def __init__(self, path: Path, config: PretrainConfig, *, first_step: int) -> None:
        self._log, self._config, self._first_step = LogFollower(path), config, first_step
        self.has_nan = False
        """open_lm has stopped, since this log was opened, as its loss was not a number. It says so nowhere else."""

    def read_records(self) -> Iterator[dict[str, Any]]:
        """Metrics of the lines that have been ended since the last call.

        `tokens_per_second` is that of the last step alone; the logged step's loss counts twice in open_lm's mean.
        """
        for line in self._log.read_new_lines():
            found = parse_progress(line, "Epoch", self._config, compute_epoch_steps(self._config))
            if line.is_new and (NOT_A_NUMBER in line.text or (found and math.isnan(found.loss))):
                self.has_nan = True
            if found and math.isfinite(found.loss):
                yield found.build_metrics(self._config, first_step=self._first_step, tokens_per_second=found.per_second)


POSITION = ("next_shard_per_source", "samples_seen")


def open_run(job: JobFile) -> "OpenLMRun":
    """The job in open_lm's hands; ConfigError for one that it cannot do."""
    if not isinstance(job.config, PretrainConfig):
        raise ConfigError(f"open_lm carries out pretrain jobs, not {job.stage}")
    if problem := find_engine_problem(job.config, "trunk"):
        raise ConfigError(problem)
    return OpenLMRun(job, job.config)


class OpenLMRun:
    """See `stages.engines.engine.EngineRun`."""

    def __init__(self, job: JobFile, config: PretrainConfig) -> None:
        self.job, self.config = job, config
        self.folder = job.run / FOLDER
        self.logs = self.folder / "logs" / NAME
        self.checkpoints = self.logs / "checkpoints"
        self.last_number = config.last_step // compute_epoch_steps(config)
        self.first_step = self.read_parent_step()
        self.log = OpenLMLog(self.logs / "out.log", config, first_step=self.first_step)

    def read_parent_step(self) -> int:
        """Where this segment begins; ConfigError for a parent that is no segment of the same trunk."""
        if not self.job.parents:
            return 0
        parent = self.job.parents[0]
        state = read_result_checkpoint(parent.run, parent.key).state
        if state.get("trajectory") != build_trajectory(self.config):
            raise ConfigError(f"parent {parent.key}: open_lm goes on from a segment of its own trunk only")
        return int(state["step"])

    def is_finished(self) -> bool:
        """The last checkpoint is whole and stands at the job's last step; at the trunk's end open_lm says so too."""
        stats = read_stats(self.checkpoints, self.last_number)
        at_end = self.config.last_step == self.config.schedule.total_steps
        return (
            stats is not None
            and stats.get("step") == self.config.last_step
            and (not at_end or stats.get("is_final_checkpoint") is True)
        )

    def prepare(self) -> EngineCommand:
        engine, settings = resolve_engine(self.job)
        check_installation(settings)
        name = self.config.sources[0].name
        shards = read_shards(name, self.job.resolve_data_path(name))
        epochs = int(engine.arguments.get("epochs", 1))
        sequences = compute_epoch_steps(self.config) * self.config.batch_sequences
        rows = list(plan_shard_reads(shards.sizes, epochs=epochs, sequences=sequences, seed=self.config.seed))
        write_data(shards, self.folder / "data", rows, seed=self.config.seed)
        write_json(self.folder / "model.json", build_model_options(self.config.model, self.config.context))
        own = build_options(self.config, data_key=shards.data_key, log_steps=self.job.settings.log_steps)
        write_json(self.folder / "options.json", own)
        self.restore()
        return EngineCommand(
            argv=(settings.python, "-m", "open_lm.main", "--config", "options.json"),
            folder=self.folder,
            # since torch 2.6 a resume would refuse the numpy learning rates in its own optimizer_N.pt
            environment={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        )

    def restore(self) -> None:
        """Puts the checkpoint there from which open_lm is to go on: its own newest whole one, else the parent's."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        newest = remove_unfinished_checkpoints(self.checkpoints)
        if not newest and self.job.parents:
            newest = self.first_step // compute_epoch_steps(self.config)
            run = self.job.parents[0].run
            export_run(run, self.checkpoints, number=newest, seed=self.config.seed, position=read_saved_position(run))
        for number in list_checkpoint_numbers(self.checkpoints):
            if number < newest:
                remove_checkpoint(self.checkpoints, number)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        return (record for record in self.log.read_records() if record["step"] <= self.config.last_step)

    def explain_failure(self, code: int) -> StageError:
        if self.log.has_nan:
            return DivergedError("open_lm stopped as its loss was not a number; no checkpoint was saved of it")
        failed = sorted((self.logs / "checkpoints_failed").glob("stats_*.pt"))
        if failed:
            return ConfigError(
                f"open_lm found fewer sequences of {self.config.context + 1} tokens than the manifest of "
                f"{self.config.sources[0].name!r} says ({failed[-1].name}); run `sweep data check` on it"
            )
        return build_exit_error("open_lm", code)

    def collect_result(self, seconds: float) -> Result:
        weights_file = build_part_path(self.checkpoints, "epoch", self.last_number)
        weights = read_weights(weights_file)
        moments = None
        if self.job.settings.keep_optimizer:
            with torch.device("meta"):
                names = [name for name, _ in OpenLM(self.config.model).named_parameters()]
            moments = read_moments(build_part_path(self.checkpoints, "optimizer", self.last_number), names)
        stats = read_stats(self.checkpoints, self.last_number) or {}
        position = {"kind": "open_lm", **{name: stats.get(name) for name in POSITION}}
        made = save_engine_checkpoint(
            self.job, weights, moments,
            step=self.config.last_step, first_step=self.first_step, position=position,
        )  # fmt: skip
        # open_lm leaves no padding, and passes over bad samples without counting them
        return build_pretrain_result(
            self.job, self.config, made,
            source=self.config.sources[0].name, first_step=self.first_step, seconds=seconds,
        )  # fmt: skip

    def clean_up(self) -> None:
        """The checkpoint of ours holds all that open_lm's did."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.folder / "data", ignore_errors=True)


def read_saved_position(run: Path) -> dict[str, Any]:
    """Where open_lm's data stand at the end of a segment; ConfigError if its checkpoint is none to go on from."""
    checkpoint = read_result_checkpoint(run)
    position = checkpoint.state.get("engine")
    if not isinstance(position, dict) or any(position.get(name) is None for name in POSITION):
        raise ConfigError(f"{run}: its checkpoint does not say where open_lm's data stand")
    if not checkpoint.has_moments:
        raise ConfigError(f"{run}: its checkpoint has no moments, without which open_lm would go on as a new run")
    return {name: position[name] for name in POSITION}
