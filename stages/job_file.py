"""Reading job.json: the typed configuration, where the data lie, and where to write."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.config import STAGES, Name, StageConfig
from stages.data.addresses import (
    AbsentPlaceError,
    expand_address,
    has_several_places,
    is_remote,
    join_places,
    make_absolute,
)
from stages.errors import ConfigError, DataError, MissingMountError
from stages.files import read_regular


class EngineSettings(BaseModel):
    """Where the program lies that carries the stage out (`stages.config.Engine`), and what it finds around it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: str
    """The interpreter, or for `command` any program: an absolute path."""
    checkout: str = ""
    """The program's folder, absolute: it works there, and Python finds its modules there."""
    environment: dict[str, str] = {}
    """Variables over those that it would find."""
    environment_from: tuple[str, ...] = ()
    """Variables that the job must have been given: their values are in no file."""


class Settings(BaseModel):
    """How a run is carried out, without effect on its numbers. `settings` of job.json, else the environment.

    The environment's names are the fields' in capitals behind `STAGE_`: STAGE_CHECKPOINT_MINUTES=5. A sweep file may
    give the fields that have a description, in the description's words (`sweep.spec.run_settings`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="how several processes share the work: ddp or fsdp",
        json_schema_extra={
            "default": "by the memory",
            "values": {"ddp": "whole replicas", "fsdp": "parameters, gradients and moments in shards (FSDP2)"},
        },
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="whether blocks and loss are compiled by torch.compile: auto, true or false",
        json_schema_extra={"values": {"auto": "on GPUs where Triton finds a C compiler and Python's headers"}},
    )
    activation_checkpointing: bool = Field(
        False,
        description="true or false: whether activations are computed again in the backward pass instead of kept",
        json_schema_extra={"default": "by the memory"},
    )
    attention: Literal["auto", "sdpa", "flex"] = Field(
        "auto",
        description="the kernel for packed documents: auto, sdpa or flex",
        json_schema_extra={
            "values": {
                "auto": "`flex` on Ampere and newer GPUs for heads of 16 or wider, with a C compiler, else `sdpa`",
                "sdpa": "SDPA with a mask",
                "flex": "FlexAttention, on GPUs only",
            }
        },
    )
    cpu_matmul: Literal["auto", "onednn", "torch"] = Field(
        "auto",
        description="what multiplies float32 matrices on a CPU: auto, onednn or torch",
        json_schema_extra={
            "values": {
                "auto": "`torch`, but oneDNN for training on AMD processors with AVX-512 and for evaluation",
                "onednn": "oneDNN",
                "torch": "PyTorch's own, which has open_lm's bits",
            }
        },
    )
    # A larger batch is summed up from several passes. The sum's rounding depends on it: keep it for a whole job.
    micro_batch_tokens: int = Field(
        0,
        ge=0,
        description="the positions that go through the model at once, 0 as the device likes it, on a GPU by its memory",
        json_schema_extra={"unit": "tokens"},
    )
    # 0 has open_lm's bits
    loss_chunk_tokens: int = Field(
        -1,
        ge=-1,
        description="the positions whose logits are in memory at once, 0 for all, -1 as the device likes it",
        json_schema_extra={"unit": "tokens"},
    )
    # They read and tokenize; with 0 batches are built in the loop.
    data_workers: int = Field(
        -1,
        ge=-1,
        description="the processes that read ahead, 0 for none, -1 as the device likes it",
        json_schema_extra={"unit": "processes"},
    )
    prefetch_batches: int = Field(
        2, gt=0, description="the batches that are ready, a whole number above 0", json_schema_extra={"unit": "batches"}
    )
    local_cache: str = Field(
        "",
        description="the absolute path of a folder on the node, for shards of an object store",
        json_schema_extra={"default": "below the system's temporary folder"},
    )
    # Images whose features do not fit are encoded each time.
    feature_cache_gib: float = Field(
        1.0,
        ge=0,
        description="the memory for an encoder's features in GiB, from 0 on",
        json_schema_extra={"unit": "GiB"},
    )
    bad_samples_limit: int = Field(
        100,
        ge=0,
        description="the bad samples of a data set that are skipped; one more stops the job",
        json_schema_extra={"unit": "samples"},
    )
    log_steps: int = Field(
        10,
        gt=0,
        description="the steps between lines of metrics, a whole number above 0",
        json_schema_extra={"unit": "steps"},
    )
    # The mean is that of the last 128 steps. A spike is noted in the metrics.
    loss_spike_sigmas: float = Field(
        6.0,
        ge=0,
        description="the standard deviations above the mean at which a loss is a spike, 0 for none",
        json_schema_extra={"unit": "standard deviations"},
    )
    # A run that stops so has diverged; with 0 spikes are only noted.
    loss_spikes_limit: int = Field(
        0, ge=0, description="the spikes in a row that stop a run, 0 for none", json_schema_extra={"unit": "steps"}
    )
    # By the supervisor, with the stacks kept; the limit is never below 50 times the median step.
    hang_minutes: float = Field(
        15.0,
        ge=0,
        description="the least minutes without a step after which a training is ended as hung, 0 for never",
        json_schema_extra={"unit": "minutes"},
    )
    # They get metrics and scores besides the store's files. W&B takes project, key and mode from its own variables.
    trackers: tuple[Name, ...] = Field((), description="a list of tensorboard, wandb, and those of installed packages")
    branch_steps: tuple[int, ...] = Field(
        (), description="a list of steps whose checkpoints are never removed", json_schema_extra={"unit": "steps"}
    )
    checkpoint_minutes: float = Field(
        10.0,
        ge=0,
        description="the minutes between checkpoints, 0 for none by time",
        json_schema_extra={"unit": "minutes"},
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="the steps between checkpoints, 0 for none by step", json_schema_extra={"unit": "steps"}
    )
    # The final checkpoint is always kept, and replaces them.
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="the checkpoints that are kept while a job runs, 1 to 1,000",
        json_schema_extra={"unit": "checkpoints"},
    )
    # `stages.evaluation.text`
    log_samples: bool = Field(
        False, description="true or false: whether each text document's requests and answers are kept"
    )

    # What follows is set by the planner or by the environment alone.

    keep_optimizer: bool = True
    """Whether a final pre-training checkpoint holds AdamW's moments, for children that carry them on."""
    feature_store: str = ""
    """Folder that keeps features on disk, for all jobs of the store; relative to the job's folder. Empty: none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cuda: fail where there is no GPU, rather than go on slowly."""
    peer_timeout_minutes: float = Field(30.0, gt=0)
    """Longest wait of one process for another before the job fails; a checkpoint of the largest model must fit in."""
    peak_tflops: float = Field(0.0, ge=0)
    """bf16 peak of one GPU, for the utilisation (MFU) in the metrics; 0: it is left out."""
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


BUILT_IN_TRACKERS = ("tensorboard", "wandb")
"""Trackers that need no plug-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrigin:
    """Who asked for a job: for people's eyes and trackers alone. All is empty for a job that is run by hand."""

    sweep: str = ""
    phase: str = ""
    label: str = ""
    """What people call the job: its cell and phase."""
    cells: tuple[str, ...] = ()
    """Names of every cell that the job serves, in the plan's order."""
    axes: Mapping[str, Any] = field(default_factory=dict)
    """Those of the first of these cells, by name."""
    board: str = ""
    """Where TensorBoard is to find it by its name; relative to the job's folder."""


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
    origin: JobOrigin = field(default_factory=JobOrigin)

    def resolve_data_location(self, name: str) -> Path | str:
        """Where the named data set lies: a local path, or an address of several places or of a store.

        Of several places the local ones are there, and absolute. DataError as `resolve_data_path`.
        """
        location = self.data.get(name, "")
        if location.startswith("pipe:"):
            return self.resolve_data_path(name)
        if has_several_places(location, self.run):
            return join_places([str(place) for place in self._resolve_places(name)])
        return location if is_remote(location) else self.resolve_data_path(name)

    def resolve_data_path(self, name: str) -> Path:
        """Where the named data set lies; DataError if that is unknown, not local, several places, or not there."""
        location = self._find_location(name)
        if is_remote(location) or location.startswith("pipe:"):
            raise DataError(f"data set {name!r}: {location!r} is not a local path; copy it and give its folder")
        if has_several_places(location, self.run):
            raise DataError(
                f"data set {name!r}: {location[:200]!r} means several places; this job reads one: name that"
            )
        path = (self.run / location).resolve()
        if not path.exists():
            raise self._build_missing_error(f"data set {name!r}: there is no {path}")
        return path

    def resolve_data_paths(self, name: str) -> list[Path]:
        """The places of the named data set; DataError as `resolve_data_path`, but that they may be several."""
        location = self._find_location(name)
        if not has_several_places(location, self.run):
            return [self.resolve_data_path(name)]
        places = self._resolve_places(name)
        if remote := next((place for place in places if isinstance(place, str)), ""):
            raise DataError(f"data set {name!r}: {remote!r} is not a local path; copy it and give its folder")
        return [Path(place) for place in places]

    def _find_location(self, name: str) -> str:
        if name not in self.data:
            raise DataError(f"data set {name!r} is not in the job's data; it has {', '.join(self.data) or 'none'}")
        return self.data[name]

    def _resolve_places(self, name: str) -> list[Path | str]:
        """Paths, which are there, and addresses of stores."""
        try:
            found = expand_address(make_absolute(self.data[name], self.run))
        except AbsentPlaceError as error:
            raise self._build_missing_error(f"data set {name!r}: {error}") from error
        except DataError as error:
            raise DataError(f"data set {name!r}: {error}") from error
        places = [place if is_remote(place) else Path(place).resolve() for place in found]
        for place in places:
            if isinstance(place, Path) and not place.exists():
                raise self._build_missing_error(f"data set {name!r}: there is no {place}")
        return places

    def _build_missing_error(self, message: str) -> DataError:
        """On a cluster it may be this node alone that lacks the mount."""
        return MissingMountError(message) if "SLURMD_NODENAME" in os.environ else DataError(message)


class _ParentRecord(BaseModel):
    key: str
    stage: str
    run: str


class _OriginRecord(BaseModel):
    sweep: str = ""
    phase: str = ""
    label: str = ""
    cells: list[str] = []
    axes: dict[str, Any] = {}
    board: str = ""


class _JobRecord(BaseModel):
    """The fields of job.json that a stage reads; others are for the control plane."""

    key: str
    stage: str
    config: dict[str, Any]
    parents: list[_ParentRecord] = []
    data: dict[str, str] = {}
    settings: dict[str, Any] = {}
    paths: dict[str, str]
    origin: _OriginRecord = _OriginRecord()


def read_job(path: Path) -> JobFile:
    """The job of a job.json; ConfigError names the file and what is wrong in it."""
    path = path.absolute()
    try:
        record = _JobRecord.model_validate(json.loads(read_regular(path)))
        settings = Settings.read(record.settings, os.environ)
    except (OSError, ValueError, RecursionError) as error:
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
        origin=JobOrigin(**{**record.origin.model_dump(), "cells": tuple(record.origin.cells)}),
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
