"""The two files of the `command` engine: the request that a program is given, and the answer that it must write."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.checkpoint.files import result_checkpoint
from stages.config import Engine
from stages.errors import ConfigError
from stages.job_file import JobFile, one_line

FORMAT = 1
Amount = Field(default=0, ge=0)


class Form(BaseModel):
    """Unknown fields are refused: a misspelt one would be lost without a word."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskScore(Form):
    """The outcome of one evaluation task (docs/formats.md, result.json)."""

    kind: Literal["text", "vision", "loss"]
    metrics: dict[str, float]
    score: float
    stderr: float | None = None
    chance: float | None = None
    n: int = Field(gt=0)


class Failure(Form):
    """Why the program gives up, where it knows."""

    kind: Literal["diverged", "data", "out_of_memory", "code"] = Field(alias="class")
    message: str


class Answer(Form):
    """What a program says of its work; the last file that it writes, and by a rename."""

    format: Literal[1]
    key: str
    """The request's."""
    failure: Failure | None = None
    weights: str = ""
    """A safetensors file, relative to the request's folder, with the names of docs/formats.md."""
    moments: str = ""
    """AdamW's, likewise: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`."""
    position: dict[str, Any] = {}
    """What it wants to find again when it goes on from this checkpoint (`engine` in state.json)."""
    steps: int = Amount
    tokens: int = Amount
    padding: int = Amount
    image_tokens: int = Amount
    images: int = Amount
    sources: dict[str, dict[str, int]] = {}
    loss: float | None = None
    bad_samples: int = Amount
    scores: dict[str, TaskScore] = {}


def read_answer(path: Path, key: str) -> Answer | None:
    """None without one, or while it is no JSON yet; ConfigError for one of another form, or of another job."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    try:
        answer = Answer.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    if answer.key != key:
        raise ConfigError(f"{path}: answers {answer.key!r}; the request is {key!r}")
    return answer


def request(job: JobFile, engine: Engine, folder: Path) -> dict[str, Any]:
    """What the program is told: all paths absolute, defaults spelt out. DataError for data that are not here."""
    config = job.config.model_dump(mode="json")
    config.pop("engine", None)
    return {
        "format": FORMAT,
        "key": job.key,
        "stage": job.stage,
        "config": config,
        "arguments": dict(engine.arguments),
        "data": {name: str(job.data_location(name)) for name in sorted(job.data) if exists(job, name)},
        "parents": [
            {"key": each.key, "stage": each.stage, "checkpoint": str(result_checkpoint(each.run, each.key).path)}
            for each in job.parents
        ],
        "log_steps": job.settings.log_steps,
        "folder": str(folder),
        "metrics": str(folder / "metrics.jsonl"),
        "answer": str(folder / "answer.json"),
    }


def exists(job: JobFile, name: str) -> bool:
    """Whether a data set is there: job.json names those of the whole sweep, of which the job may need a few."""
    location = job.data[name]
    return "://" in location or (job.run / location).exists()
