"""Reading job.json: the typed configuration, where the data lie, and where to write."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.config import STAGES, StageConfig
from stages.errors import ConfigError, DataError


class EngineSettings(BaseModel):
    """Where the program lies that carries the stage out (`stages.config.Engine`), and what it finds around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str
    """The interpreter, or for `command` any program: an absolute path."""
    checkout: str = ""
    """The program's folder, absolute: it works there, and Python finds its modules there."""
    environment: dict[str, str] = {}
    """Variables over those that it would find."""


class Settings(BaseModel):
    """How a run is carried out, without effect on its numbers. `settings` of job.json, else the environment.

    The environment's names are the fields' in capitals behind `STAGE_`: STAGE_CHECKPOINT_MINUTES=5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Minutes between checkpoints; 0: none by time."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0: none by step."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept while the job runs; the final one always is, and replaces them."""
    keep_optimizer: bool = True
    """Whether a final pre-training checkpoint holds AdamW's moments, for children that carry them on."""
    log_samples: bool = False
    """Whether an evaluation keeps each text document's requests and answers (`stages.evaluation.text`)."""
    log_steps: int = Field(default=10, ge=1)
    """Steps between lines of metrics.jsonl."""
    bad_samples_limit: int = Field(default=100, ge=0)
    """Bad samples that are skipped; one more stops the job."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Positions that go through the model at once; a larger batch is summed up from several passes.

    0: as the device likes it. The sum's rounding depends on it, so keep it for the length of a job."""
    feature_cache_gib: float = Field(default=1.0, ge=0)
    """Memory for the frozen encoder's features; images beyond it are encoded each time."""
    feature_store: str = ""
    """Folder that keeps them on disk, for all jobs of the store; relative to the job's folder. Empty: none are kept."""
    branch_steps: tuple[int, ...] = ()
    """Steps whose checkpoints are written and never removed."""
    data_workers: int = Field(default=-1, ge=-1)
    """Processes that read and tokenize ahead; 0: none, batches are built in the loop; -1: as the device likes it."""
    prefetch_batches: int = Field(default=2, ge=1)
    """Batches that are ready ahead of the loop."""
    local_cache: str = ""
    """Folder on the node for shards of an object store; empty: below the system's temporary folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cuda: fail where there is no GPU, rather than go on slowly."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work: whole replicas, or parameters, gradients and moments in shards (FSDP2)."""
    peer_timeout_minutes: float = Field(default=30.0, gt=0)
    """Longest wait of one process for another before the job fails; a checkpoint of the largest model must fit in."""
    activation_checkpointing: bool = False
    """Blocks' activations are computed again in the backward pass instead of kept."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of each block and of the loss; auto: on a GPU, if a C compiler is there."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """Kernel for packed documents; auto: flex on a GPU (Ampere or newer, with a C compiler), else SDPA with a mask."""
    cpu_matmul: Literal["onednn", "torch"] = "onednn"
    """float32 matrix products on a CPU. onednn is up to twice as fast on AMD; torch has open_lm's bits."""
    loss_chunk_tokens: int = Field(default=-1, ge=-1)
    """Positions whose logits are in memory at once; 0: all (open_lm's bits); -1: as the device likes it."""
    peak_tflops: float = Field(default=0.0, ge=0)
    """bf16 peak of one GPU, for the utilisation (MFU) in the metrics; 0: it is left out."""
    loss_spike_sigmas: float = Field(default=6.0, ge=0)
    """A step whose loss lies so many standard deviations above the mean of the last 128 is a spike: noted in the
    metrics; 0: not looked for."""
    loss_spikes_limit: int = Field(default=0, ge=0)
    """Spikes in a row that stop the run as diverged; 0: they are only noted."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where metrics go besides metrics.jsonl; W&B takes project, key and mode from its own environment variables."""
    engine: EngineSettings | None = None
    """Where the job's engine lies; needed by a job whose configuration names one. Not read from the environment."""

    @classmethod
    def read(cls, given: Mapping[str, Any], environment: Mapping[str, str]) -> "Settings":
        from_environment = {
            name: environment[f"STAGE_{name.upper()}"]
            for name in cls.model_fields
            if f"STAGE_{name.upper()}" in environment and name != "engine"
        }
        return cls.model_validate({**from_environment, **given})


@dataclass(frozen=True, slots=True)
class Parent:
    """A job that this one builds on; `run` is its folder."""

    key: str
    stage: str
    run: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """One job, as job.json describes it. All paths are absolute."""

    key: str
    stage: str
    config: StageConfig
    parents: tuple[Parent, ...]
    data: Mapping[str, str]
    settings: Settings
    run: Path
    checkpoints: Path
    metrics: Path
    result: Path
    error: Path

    def resolve_data_location(self, name: str) -> Path | str:
        """Where the named data set lies: a local path, or the address of a store; DataError as `resolve_data_path`."""
        location = self.data.get(name, "")
        return location if "://" in location and not location.startswith("pipe:") else self.resolve_data_path(name)

    def resolve_data_path(self, name: str) -> Path:
        """Where the named data set lies; DataError if that is unknown, not local, or nothing is there."""
        if name not in self.data:
            raise DataError(f"data set {name!r} is not in the job's data; it has {', '.join(self.data) or 'none'}")
        location = self.data[name]
        if "://" in location or location.startswith("pipe:"):
            raise DataError(f"data set {name!r}: {location!r} is not a local path; copy it and give its folder")
        path = (self.run / location).resolve()
        if not path.exists():
            raise DataError(f"data set {name!r}: there is no {path}")
        return path


class _ParentRecord(BaseModel):
    key: str
    stage: str
    run: str


class _JobRecord(BaseModel):
    """The fields of job.json that a stage reads; others are for the control plane."""

    key: str
    stage: str
    config: dict[str, Any]
    parents: list[_ParentRecord] = []
    data: dict[str, str] = {}
    settings: dict[str, Any] = {}
    paths: dict[str, str]


def read_job(path: Path) -> JobFile:
    """The job of a job.json; ConfigError names the file and what is wrong in it."""
    path = path.absolute()
    try:
        record = _JobRecord.model_validate(json.loads(path.read_bytes()))
        settings = Settings.read(record.settings, os.environ)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {summarize_error(error)}") from error
    run = path.parent
    missing = {"checkpoints", "metrics", "result", "error"} - record.paths.keys()
    if missing:
        raise ConfigError(f"{path}: paths lacks {', '.join(sorted(missing))}")
    return JobFile(
        key=record.key,
        stage=record.stage,
        config=read_config(path, record.stage, record.config),
        parents=tuple(Parent(p.key, p.stage, (run / p.run).resolve()) for p in record.parents),
        data=record.data,
        settings=settings,
        run=run,
        checkpoints=run / record.paths["checkpoints"],
        metrics=run / record.paths["metrics"],
        result=run / record.paths["result"],
        error=run / record.paths["error"],
    )


def read_config(path: Path, stage: str, content: Mapping[str, Any]) -> StageConfig:
    """The typed configuration of a stage."""
    if stage not in STAGES:
        raise ConfigError(f"{path}: stage {stage!r} is unknown; stages are {', '.join(STAGES)}")
    try:
        return STAGES[stage].config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: config: {summarize_error(error)}") from error


def summarize_error(error: Exception) -> str:
    """An error's message, shortened to one line; of a validation the first wrong field and how many there are."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = first["msg"].removeprefix("Value error, ")
        return f"{field}: {reason}; given {str(first['input'])[:80]}{more}"
    return " ".join(str(error).split())[:500]
