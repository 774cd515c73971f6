"""Any program as an engine (docs/add-an-engine.md): it is given a request file and must write an answer file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from stages.config import EvaluateConfig, PretrainConfig
from stages.engines.checkpoint import save_made
from stages.engines.command_files import Answer, Failure, read_answer, request
from stages.engines.command_log import ProgramLog
from stages.engines.engine import FOLDER, Command, died, wanted_engine
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.result import Result, relative_to_run


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

    def finished(self) -> bool:
        answer = self.answer()
        return answer is not None and answer.failure is None

    def answer(self) -> Answer | None:
        """The program's answer, once there is one. ConfigError if it does not hold."""
        answer = read_answer(self.answer_file, self.job.key)
        if answer is None or answer.failure is not None:
            return answer
        if isinstance(self.job.config, EvaluateConfig):
            check_scores(answer, self.job.config, self.answer_file)
        else:
            self.inside(answer.weights, "weights")
            if answer.moments:
                self.inside(answer.moments, "moments")
        return answer

    def inside(self, name: str, field: str) -> Path:
        """The safetensors file of that name; ConfigError if it is not whole, or not in the engine's folder."""
        path = (self.folder / name).resolve()
        if not name or not path.is_relative_to(self.folder.resolve()):
            raise ConfigError(f"{self.answer_file}: {field}: {name!r} is no file in the request's folder")
        try:
            with safe_open(path, framework="pt"):  # compares the file's length with its header
                return path
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{self.answer_file}: {field}: {path} is no whole safetensors file: {error}") from error

    def prepare(self) -> Command:
        engine, settings = wanted_engine(self.job)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.answer_file.unlink(missing_ok=True)  # of an attempt before that failed: its reason may be gone
        path = self.folder / "request.json"
        write_json(path, request(self.job, engine, self.folder))
        return Command(
            words=(settings.python, *engine.command, str(path)),
            folder=Path(settings.checkout) if settings.checkout else self.folder,
        )

    def metrics(self) -> Iterator[dict[str, Any]]:
        return self.log.records()

    def failure(self, code: int) -> StageError:
        answer = self.answer()
        if answer is not None and answer.failure is not None:
            return AnsweredError(answer.failure)
        if self.log.has_nan:
            return DivergedError("the engine's loss is not a number, and it wrote no answer")
        return died("the engine", code, f"no answer in {self.answer_file}")

    def take(self, seconds: float) -> Result:
        answer = self.answer()
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

    def save(self, answer: Answer) -> str:
        """The answer's weights as a checkpoint of ours; its path."""
        config = self.job.config
        step = config.last_step if isinstance(config, PretrainConfig) else answer.steps
        moments: dict[str, Tensor] | None = None
        if answer.moments and self.job.settings.keep_optimizer:
            moments = load_file(self.inside(answer.moments, "moments"))
        made = save_made(
            self.job, load_file(self.inside(answer.weights, "weights")), moments,
            step=step, first_step=step - answer.steps, position={"kind": "command", **answer.position},
        )  # fmt: skip
        return relative_to_run(self.job, made)

    def tidy(self) -> None:
        """The program's files are its own business; those that it answered with are in our checkpoint now."""
        answer = self.answer()
        for name in filter(None, (answer.weights, answer.moments) if answer else ()):
            (self.folder / name).unlink(missing_ok=True)


def check_scores(answer: Answer, config: EvaluateConfig, path: Path) -> None:
    """ConfigError unless the scores are those of the tasks that were asked for."""
    wanted = {task.name for task in (*config.text_tasks, *config.vision_tasks)}
    if wanted != answer.scores.keys():
        odd = ", ".join(sorted(wanted ^ answer.scores.keys()))
        raise ConfigError(f"{path}: scores: {odd} is asked for and not given, or given and not asked for")


class AnsweredError(StageError):
    """A failure that the program itself has named."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(" ".join(failure.message.split())[:500])
        self.failure_class = failure.kind
