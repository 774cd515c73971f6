"""open_lm (mlfoundations/open_lm) as the engine of a text trunk.

Tried with the branch prismatic_openlm (8ddc185). A trunk's segments are one run of open_lm, cut: each goes on from the
checkpoint of the one before, with `--resume latest`, in the schedule of the whole trunk; as open_lm cannot stop before
its schedule's end, it is stopped once the segment's last checkpoint is whole.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stages.checkpoint.files import result_checkpoint
from stages.checkpoint.openlm import export_run, read_moments, read_pickle, read_weights
from stages.config import PretrainConfig
from stages.engines.checkpoint import save_made
from stages.engines.engine import FOLDER, Command, died, wanted_engine
from stages.engines.limits import engine_problem, epoch_steps
from stages.engines.open_lm.data import open_shards, pieces, write_data
from stages.engines.open_lm.log import OutLog
from stages.engines.open_lm.options import NAME, check_installation, model_file, options
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.models.openlm import OpenLM
from stages.result import Result, relative_to_run
from stages.training.start import trajectory

# The checkpoints of an open_lm run, by the order in which it writes them: epoch_N.pt, optimizer_N.pt, stats_N.pt.

PARTS = ("epoch", "optimizer", "stats")


def part(folder: Path, name: str, number: int) -> Path:
    """One of the files of checkpoint `number`."""
    return folder / f"{name}_{number}.pt"


def stats_of(folder: Path, number: int) -> dict[str, Any] | None:
    """What checkpoint `number` says of itself; None unless all of its files are there and the last one is whole."""
    if not all(part(folder, name, number).is_file() for name in PARTS):
        return None
    try:
        return read_pickle(part(folder, "stats", number))
    except ConfigError:
        return None


def numbers(folder: Path) -> list[int]:
    """Of all checkpoints of which there is a file, whole or not, ascending."""
    found = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(?:epoch|optimizer|stats)_(\d+)\.pt", path.name))
    }
    return sorted(found)


def drop_torn(folder: Path) -> int:
    """Removes checkpoints that were not written to their end, which `--resume latest` would take; the newest's number
    that is left, 0 for none."""
    newest = 0
    for number in numbers(folder):
        if stats_of(folder, number) is None:
            remove(folder, number)
        else:
            newest = number
    return newest


def remove(folder: Path, number: int) -> None:
    """A checkpoint's files: the one that says that they are whole goes first."""
    for name in reversed(PARTS):
        part(folder, name, number).unlink(missing_ok=True)


POSITION = ("next_shard_per_source", "samples_seen")


def open_run(job: JobFile) -> "OpenLMRun":
    """The job in open_lm's hands; ConfigError for one that it cannot do."""
    if not isinstance(job.config, PretrainConfig):
        raise ConfigError(f"open_lm carries out pretrain jobs, not {job.stage}")
    if problem := engine_problem(job.config, "trunk"):
        raise ConfigError(problem)
    return OpenLMRun(job, job.config)


class OpenLMRun:
    """See `stages.engines.engine.EngineRun`."""

    def __init__(self, job: JobFile, config: PretrainConfig) -> None:
        self.job, self.config = job, config
        self.folder = job.run / FOLDER
        self.logs = self.folder / "logs" / NAME
        self.checkpoints = self.logs / "checkpoints"
        self.last_number = config.last_step // epoch_steps(config)
        self.first_step = self.step_of_parent()
        self.log = OutLog(self.logs / "out.log", config, first_step=self.first_step)

    def step_of_parent(self) -> int:
        """Where this segment begins; ConfigError for a parent that is no segment of the same trunk."""
        if not self.job.parents:
            return 0
        parent = self.job.parents[0]
        state = result_checkpoint(parent.run, parent.key).state
        if state.get("trajectory") != trajectory(self.config):
            raise ConfigError(f"parent {parent.key}: open_lm goes on from a segment of its own trunk only")
        return int(state["step"])

    def finished(self) -> bool:
        """The last checkpoint is whole and stands at the job's last step; at the trunk's end open_lm says so too."""
        stats = stats_of(self.checkpoints, self.last_number)
        at_end = self.config.last_step == self.config.schedule.total_steps
        return (
            stats is not None
            and stats.get("step") == self.config.last_step
            and (not at_end or stats.get("is_final_checkpoint") is True)
        )

    def prepare(self) -> Command:
        engine, settings = wanted_engine(self.job)
        check_installation(settings)
        name = self.config.sources[0].name
        shards = open_shards(name, self.job.data_path(name))
        epochs = int(engine.arguments.get("epochs", 1))
        sequences = epoch_steps(self.config) * self.config.batch_sequences
        rows = list(pieces(shards.sizes, epochs=epochs, sequences=sequences, seed=self.config.seed))
        write_data(shards, self.folder / "data", rows, seed=self.config.seed)
        write_json(self.folder / "model.json", model_file(self.config.model, self.config.context))
        own = options(self.config, data_key=shards.data_key, log_steps=self.job.settings.log_steps)
        write_json(self.folder / "options.json", own)
        self.restore()
        return Command(
            words=(settings.python, "-m", "open_lm.main", "--config", "options.json"),
            folder=self.folder,
            # since torch 2.6 a resume would refuse the numpy learning rates in its own optimizer_N.pt
            environment={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        )

    def restore(self) -> None:
        """Puts the checkpoint there from which open_lm is to go on: its own newest whole one, else the parent's."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        newest = drop_torn(self.checkpoints)
        if not newest and self.job.parents:
            newest = self.first_step // epoch_steps(self.config)
            run = self.job.parents[0].run
            export_run(run, self.checkpoints, number=newest, seed=self.config.seed, position=saved_position(run))
        for number in numbers(self.checkpoints):
            if number < newest:
                remove(self.checkpoints, number)

    def metrics(self) -> Iterator[dict[str, Any]]:
        return (record for record in self.log.records() if record["step"] <= self.config.last_step)

    def failure(self, code: int) -> StageError:
        if self.log.has_nan:
            return DivergedError("open_lm stopped as its loss was not a number; no checkpoint was saved of it")
        failed = sorted((self.logs / "checkpoints_failed").glob("stats_*.pt"))
        if failed:
            return ConfigError(
                f"open_lm found fewer sequences of {self.config.context + 1} tokens than the manifest of "
                f"{self.config.sources[0].name!r} says ({failed[-1].name}); run `sweep data check` on it"
            )
        return died("open_lm", code)

    def take(self, seconds: float) -> Result:
        weights_file = part(self.checkpoints, "epoch", self.last_number)
        weights = read_weights(weights_file)
        moments = None
        if self.job.settings.keep_optimizer:
            with torch.device("meta"):
                names = [name for name, _ in OpenLM(self.config.model).named_parameters()]
            moments = read_moments(part(self.checkpoints, "optimizer", self.last_number), names)
        stats = stats_of(self.checkpoints, self.last_number) or {}
        position = {"kind": "open_lm", **{name: stats.get(name) for name in POSITION}}
        made = save_made(
            self.job, weights, moments,
            step=self.config.last_step, first_step=self.first_step, position=position,
        )  # fmt: skip
        return self.result(made, seconds)

    def result(self, checkpoint: Path, seconds: float) -> Result:
        """What the segment did; open_lm leaves no padding and passes over bad samples without counting them."""
        steps = self.config.last_step - self.first_step
        tokens = steps * self.config.step_tokens
        sequences = steps * self.config.batch_sequences
        taken = {"sequences": sequences, "samples": sequences, "tokens": tokens, "image_tokens": 0, "images": 0}
        return Result(
            steps=steps,
            tokens=tokens,
            sources={self.config.sources[0].name: taken},
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else 0.0,
            loss=last_loss(self.job.metrics),
            checkpoint=relative_to_run(self.job, checkpoint),
        )

    def tidy(self) -> None:
        """The checkpoint of ours holds all that open_lm's did."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.folder / "data", ignore_errors=True)


def saved_position(run: Path) -> dict[str, Any]:
    """Where open_lm's data stand at the end of a segment; ConfigError if its checkpoint is none to go on from."""
    checkpoint = result_checkpoint(run)
    position = checkpoint.state.get("engine")
    if not isinstance(position, dict) or any(position.get(name) is None for name in POSITION):
        raise ConfigError(f"{run}: its checkpoint does not say where open_lm's data stand")
    if not checkpoint.has_moments:
        raise ConfigError(f"{run}: its checkpoint has no moments, without which open_lm would go on as a new run")
    return {name: position[name] for name in POSITION}


def last_loss(metrics: Path) -> float | None:
    """Of the last line of metrics.jsonl; None where there is none."""
    try:
        return float(json.loads(metrics.read_text().splitlines()[-1])["loss"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return None
