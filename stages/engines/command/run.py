"""Any program as an engine (docs/add-an-engine.md): it is given a request file and must write an answer file."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from torch import Tensor

from stages.checkpoint.files import read_result_checkpoint
from stages.config import Engine, EvaluateConfig, PretrainConfig
from stages.engines.checkpoint import save_engine_checkpoint
from stages.engines.engine import FOLDER, EngineCommand, build_exit_error, resolve_engine
from stages.engines.log import LogFollower
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile, summarize_error
from stages.result import Result, render_relative_path
from stages.tensor_files import TensorFileError, convert_tensor_errors, load_tensors

# The two files of the `command` engine: the request that a program is given, and the answer that it must write.

FORMAT = 1
Amount = Field(default=0, ge=0)


class StrictModel(BaseModel):
    """Unknown fields are refused: a misspelt one would be lost without a word."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AnsweredScore(StrictModel):
    """The outcome of one evaluation task (docs/formats.md, result.json)."""

    kind: Literal["text", "vision", "loss"]
    metrics: dict[str, float]
    score: float
    stderr: float | None = None
    chance: float | None = None
    n: int = Field(gt=0)


class AnsweredFailure(StrictModel):
    """Why the program gives up, where it knows."""

    kind: Literal["diverged", "data", "out_of_memory", "code"] = Field(alias="class")
    message: str


class EngineAnswer(StrictModel):
    """What a program says of its work; the last file that it writes, and by a rename."""

    format: Literal[1]
    key: str
    """The request's."""
    failure: AnsweredFailure | None = None
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
    scores: dict[str, AnsweredScore] = {}


def read_answer(path: Path, key: str) -> EngineAnswer | None:
    """None without one, or while it is no JSON yet; ConfigError for one of another form, or of another job."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    try:
        answer = EngineAnswer.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {summarize_error(error)}") from error
    if answer.key != key:
        raise ConfigError(f"{path}: answers {answer.key!r}; the request is {key!r}")
    return answer


def build_request(job: JobFile, engine: Engine, folder: Path) -> dict[str, Any]:
    """The program's input: all paths absolute, defaults spelt out. DataError for data that are not here."""
    config = job.config.model_dump(mode="json")
    config.pop("engine", None)
    return {
        "format": FORMAT,
        "key": job.key,
        "stage": job.stage,
        "config": config,
        "arguments": dict(engine.arguments),
        "data": {name: str(job.resolve_data_location(name)) for name in sorted(job.data) if has_data(job, name)},
        "parents": [
            {"key": each.key, "stage": each.stage, "checkpoint": str(read_result_checkpoint(each.run, each.key).path)}
            for each in job.parents
        ],
        "log_steps": job.settings.log_steps,
        "folder": str(folder),
        "metrics": str(folder / "metrics.jsonl"),
        "answer": str(folder / "answer.json"),
    }


def has_data(job: JobFile, name: str) -> bool:
    """Whether a data set is there: job.json names those of the whole sweep, of which the job may need a few."""
    location = job.data[name]
    return "://" in location or (job.run / location).exists()


# The lines of metrics that a program of the `command` engine appends to its own file.

NUMBERS = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "total_steps", "first_step")
"""What is taken of a line; `step` must be there. A step that comes again takes the place of all from it on."""


class ProgramLog:
    """From the file's beginning: metrics.jsonl is rewritten from it."""

    def __init__(self, path: Path) -> None:
        self._log = LogFollower(path)
        self.has_nan = False
        """Whether the program has noted a loss that is not a number."""

    def read_records(self) -> Iterator[dict[str, Any]]:
        """Those of the lines that have been ended since the last call; a line that is not JSON is skipped."""
        for line in self._log.read_new_lines():
            found = parse_numbers(line.text)
            self.has_nan = self.has_nan or not math.isfinite(found.get("loss", 0.0))
            step = int(found.get("step", -1)) if math.isfinite(found.get("step", -1)) else -1
            if step >= 0:
                finite = {name: value for name, value in found.items() if math.isfinite(value)}
                yield {**finite, "step": step, "time": line.written_at}


def parse_numbers(line: str) -> dict[str, float]:
    """The known numbers of a line; empty if it is no JSON object."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    known = content if isinstance(content, dict) else {}
    return {
        name: known[name]
        for name in NUMBERS
        if isinstance(known.get(name), int | float) and not isinstance(known[name], bool)
    }


def open_run(job: JobFile) -> "CommandRun":
    """The job in the program's hands."""
    return CommandRun(job)


class CommandRun:
    """See `stages.engines.engine.EngineRun`. The answer counts once what it names is there, whole."""

    def __init__(self, job: JobFile) -> None:
        self.job = job
        self.folder = job.run / FOLDER
        self.answer_file = self.folder / "answer.json"
        self.log = ProgramLog(self.folder / "metrics.jsonl")

    def is_finished(self) -> bool:
        answer = self.load_answer()
        return answer is not None and answer.failure is None

    def load_answer(self) -> EngineAnswer | None:
        """The program's answer, once there is one. ConfigError if it does not hold."""
        answer = read_answer(self.answer_file, self.job.key)
        if answer is None or answer.failure is not None:
            return answer
        if isinstance(self.job.config, EvaluateConfig):
            check_scores(answer, self.job.config, self.answer_file)
        else:
            self.resolve_safetensors(answer.weights, "weights")
            if answer.moments:
                self.resolve_safetensors(answer.moments, "moments")
        return answer

    def resolve_safetensors(self, name: str, field: str) -> Path:
        """The safetensors file of that name; ConfigError if it is not whole, or not in the engine's folder."""
        path = (self.folder / name).resolve()
        if not name or not path.is_relative_to(self.folder.resolve()):
            raise ConfigError(f"{self.answer_file}: {field}: {name!r} is no file in the request's folder")
        try:
            with convert_tensor_errors(path), safe_open(path, framework="pt"):
                return path  # it compares the file's length with its header
        except (OSError, TensorFileError) as error:
            raise ConfigError(f"{self.answer_file}: {field}: {error}") from error

    def load_answered(self, name: str, field: str) -> dict[str, Tensor]:
        """The tensors of that file; ConfigError as `resolve_safetensors`."""
        try:
            return load_tensors(self.resolve_safetensors(name, field))
        except TensorFileError as error:
            raise ConfigError(f"{self.answer_file}: {field}: {error}") from error

    def prepare(self) -> EngineCommand:
        engine, settings = resolve_engine(self.job)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.answer_file.unlink(missing_ok=True)  # of an attempt before that failed: its reason may be gone
        path = self.folder / "request.json"
        write_json(path, build_request(self.job, engine, self.folder))
        return EngineCommand(
            argv=(settings.python, *engine.command, str(path)),
            folder=Path(settings.checkout) if settings.checkout else self.folder,
        )

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        return self.log.read_records()

    def explain_failure(self, code: int) -> StageError:
        answer = self.load_answer()
        if answer is not None and answer.failure is not None:
            return EngineReportedError(answer.failure)
        if self.log.has_nan:
            return DivergedError("the engine's loss is not a number, and it wrote no answer")
        return build_exit_error("the engine", code, f"no answer in {self.answer_file}")

    def collect_result(self, seconds: float) -> Result:
        answer = self.load_answer()
        if answer is None:
            raise ConfigError(f"{self.answer_file} is not there any more")
        checkpoint = "" if isinstance(self.job.config, EvaluateConfig) else self.save(answer)
        return Result(
            steps=answer.steps,
            tokens=answer.tokens,
            padding=answer.padding,
            image_tokens=answer.image_tokens,
            images=answer.images,
            sources=answer.sources,
            seconds=seconds,
            tokens_per_second=answer.tokens / seconds if seconds else 0.0,
            loss=answer.loss,
            checkpoint=checkpoint,
            bad_samples=answer.bad_samples,
            scores={name: score.model_dump(mode="json") for name, score in answer.scores.items()},
        )

    def save(self, answer: EngineAnswer) -> str:
        """The answer's weights as a checkpoint of ours; its path."""
        config = self.job.config
        step = config.last_step if isinstance(config, PretrainConfig) else answer.steps
        moments: dict[str, Tensor] | None = None
        if answer.moments and self.job.settings.keep_optimizer:
            moments = self.load_answered(answer.moments, "moments")
        made = save_engine_checkpoint(
            self.job, self.load_answered(answer.weights, "weights"), moments,
            step=step, first_step=step - answer.steps, position={"kind": "command", **answer.position},
        )  # fmt: skip
        return render_relative_path(self.job, made)

    def clean_up(self) -> None:
        """The program's files are its own business; those that it answered with are in our checkpoint now."""
        answer = self.load_answer()
        for name in filter(None, (answer.weights, answer.moments) if answer else ()):
            (self.folder / name).unlink(missing_ok=True)


def check_scores(answer: EngineAnswer, config: EvaluateConfig, path: Path) -> None:
    """ConfigError unless the scores are those of the tasks that were asked for."""
    wanted = {task.name for task in (*config.text_tasks, *config.vision_tasks)}
    if wanted != answer.scores.keys():
        odd = ", ".join(sorted(wanted ^ answer.scores.keys()))
        raise ConfigError(f"{path}: scores: {odd} is asked for and not given, or given and not asked for")


class EngineReportedError(StageError):
    """A failure that the program itself has named."""

    def __init__(self, failure: AnsweredFailure) -> None:
        super().__init__(" ".join(failure.message.split())[:500])
        self.failure_class = failure.kind
