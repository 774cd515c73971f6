"""prismatic (TRI-ML/prismatic-vlms) as the engine of a fine-tune.

Its scripts/pretrain.py runs as it is, on one GPU, with the parent's language model (open_lm's own code) and projector.
It keeps no optimizer state, so an attempt after a stop begins at step 0. Its configuration and the model that it builds
were checked against its own code (874c5bb); it was never run on a GPU.
"""

import importlib.resources
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.checkpoint.files import Checkpoint, read_result_checkpoint
from stages.config import FinetuneConfig, LanguageModel, Vision
from stages.data.tokenizer import TextTokenizer
from stages.engines.checkpoint import save_engine_checkpoint
from stages.engines.engine import FOLDER, EngineCommand, build_exit_error, resolve_engine
from stages.engines.limits import find_engine_problem, find_model_problem
from stages.engines.log import LogFollower
from stages.engines.prismatic.data import WrittenConversations, write_conversations
from stages.engines.prismatic.options import (
    CONFIG,
    CONVERSATIONS,
    LANGUAGE_MODEL,
    PROJECTOR,
    RUN,
    START,
    STARTER,
    TOKEN_VARIABLE,
    build_config,
    build_start_settings,
    check_installation,
    check_tokenizer,
)
from stages.engines.prismatic.weights import LATEST, find_final_checkpoint, read_trained_weights, write_parent_weights
from stages.errors import ConfigError, DivergedError, StageError
from stages.files import write_json
from stages.job_file import JobFile
from stages.result import Result, render_relative_path
from stages.training.setup import load_tokenizer
from stages.vision.specs import resolve_encoder_spec

# prismatic's RUN.jsonl, a line a step: its lines as lines of metrics.jsonl.

RAW, RATE, STEP = "Finetune/Loss (Raw)", "Finetune/Learning Rate", "Finetune/Step"


class PrismaticLog:
    """The log from its beginning; one of an attempt before is gone, as prismatic never goes on."""

    def __init__(self, path: Path, *, log_steps: int, source: str) -> None:
        self._log, self._log_steps, self._source = LogFollower(path), log_steps, source
        self._losses: list[float] = []
        self.total_steps = 0
        """Steps of the whole run, once known."""
        self.step, self.loss = 0, math.nan
        """The last step that was read, and the mean loss of the last line given."""

    def read_records(self) -> Iterator[dict[str, Any]]:
        """Of the lines that were ended since the last call: one record for each `log_steps` steps, and for the last.

        DivergedError for a loss that is not a number: prismatic itself would train on to the end.
        """
        for line in self._log.read_new_lines():
            found = json.loads(line.text)
            self.step = int(found[STEP])
            self._losses.append(float(found[RAW]))
            if not math.isfinite(self._losses[-1]):
                raise DivergedError(f"prismatic's loss of step {self.step} is not a number")
            if self.step % self._log_steps == 0 or self.step == self.total_steps:
                yield self._record(found, line.written_at)

    def _record(self, found: dict[str, Any], written_at: float) -> dict[str, Any]:
        self.loss = sum(self._losses) / len(self._losses)
        self._losses.clear()
        return {
            "step": self.step,
            "loss": self.loss,
            "losses": {self._source: self.loss},
            "lr": float(found[RATE]),
            "time": written_at,
            "total_steps": self.total_steps,
            "first_step": 0,
        }


LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", "1")


def open_run(job: JobFile) -> "PrismaticRun":
    """The job in prismatic's hands; ConfigError for one that it cannot do."""
    if not isinstance(job.config, FinetuneConfig):
        raise ConfigError(f"prismatic carries out finetune jobs, not {job.stage}")
    if problem := find_engine_problem(job.config, "finetune"):
        raise ConfigError(problem)
    if len(job.parents) != 1:
        raise ConfigError(f"finetune takes one parent; {len(job.parents)} are given")
    return PrismaticRun(job, job.config)


class PrismaticRun:
    """See `stages.engines.engine.EngineRun`."""

    def __init__(self, job: JobFile, config: FinetuneConfig) -> None:
        self.job, self.config = job, config
        self.folder = job.run / FOLDER
        self.logs = self.folder / "runs" / RUN
        self.parent = read_result_checkpoint(job.parents[0].run, job.parents[0].key)
        model, vision = read_model_shapes(self.parent)
        if problem := find_model_problem(config, model, vision):
            raise ConfigError(problem)
        assert vision is not None  # noqa: S101 - model_problem has just said so
        self.model, self.vision = model, vision
        log_steps, source = job.settings.log_steps, config.conversations.name
        self.log = PrismaticLog(self.logs / f"{RUN}.jsonl", log_steps=log_steps, source=source)

    def is_finished(self) -> bool:
        """The checkpoint of the last epoch is whole. One whose loss is not a number is no model."""
        found = find_final_checkpoint(self.logs / "checkpoints", self.config.epochs)
        return found is not None and found["loss"] not in {"nan", "inf", "-inf"}

    def prepare(self) -> EngineCommand:
        _, settings = resolve_engine(self.job)
        tokenizer = load_tokenizer(self.job, self.config.tokenizer, self.model.vocabulary, literal=True)
        check_tokenizer(tokenizer, self.model.vocabulary)
        check_installation(settings)
        shutil.rmtree(self.logs, ignore_errors=True)  # it appends to its log, and cannot go on
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.write_data()
        self.log.total_steps = self.config.epochs * data.count_steps(self.config.batch_sequences)
        self.write_files(tokenizer, data.images)
        return EngineCommand(
            argv=(settings.python, *LAUNCHER, STARTER, "--config_path", CONFIG),
            folder=self.folder,
            environment={TOKEN_VARIABLE: "", "TOKENIZERS_PARALLELISM": "false"},
        )

    def write_data(self) -> WrittenConversations:
        """The conversations as prismatic reads them."""
        source = self.job.resolve_data_path(self.config.conversations.name)
        return write_conversations(source, self.folder / CONVERSATIONS, limit=self.job.settings.bad_samples_limit)

    def write_files(self, tokenizer: TextTokenizer, images: Path) -> None:
        """Configuration, starter and the parent's weights."""
        start = tokenizer.start_of_text
        own = build_config(self.config, self.vision, start_tokens=len(start), images=images)
        write_json(self.folder / CONFIG, own)
        more = build_start_settings(
            self.config, self.model,
            tokenizer=tokenizer.file, end_of_text=tokenizer.end_of_text_name, start_of_text=start[0] if start else None,
        )  # fmt: skip
        write_json(self.folder / START, more)
        source = importlib.resources.files("stages.engines.prismatic").joinpath("start_program.py")
        (self.folder / STARTER).write_bytes(source.read_bytes())
        write_parent_weights(
            self.parent.read_weights(), self.vision,
            projector=self.folder / PROJECTOR, language_model=self.folder / LANGUAGE_MODEL,
        )  # fmt: skip

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        return self.log.read_records()

    def explain_failure(self, code: int) -> StageError:
        return build_exit_error("prismatic", code, f"it had come to step {self.log.step}" if self.log.step else "")

    def collect_result(self, seconds: float) -> Result:
        """`tokens` stays 0: prismatic does not say how long its batches were."""
        checkpoints = self.logs / "checkpoints"
        found = find_final_checkpoint(checkpoints, self.config.epochs)
        if found is None:
            raise ConfigError(f"{checkpoints / LATEST} is not there any more")
        steps = int(found["step"])
        weights = read_trained_weights(checkpoints / LATEST, self.vision)
        made = save_engine_checkpoint(self.job, weights, None, step=steps, first_step=0, position={"kind": "prismatic"})
        data = self.write_data()
        images = self.config.epochs * data.count_images(self.config.batch_sequences)
        return Result(
            steps=steps,
            images=images,
            image_tokens=images * resolve_encoder_spec(self.vision.encoder).image_tokens,
            seconds=seconds,
            loss=self.log.loss if self.log.step else float(found["loss"]),
            checkpoint=render_relative_path(self.job, made),
            bad_samples=data.bad,
        )

    def clean_up(self) -> None:
        """The checkpoint of ours holds all that prismatic's did."""
        shutil.rmtree(self.logs / "checkpoints", ignore_errors=True)
        for name in (PROJECTOR, LANGUAGE_MODEL, CONVERSATIONS):
            (self.folder / name).unlink(missing_ok=True)


def read_model_shapes(checkpoint: Checkpoint) -> tuple[LanguageModel, Vision | None]:
    """What a checkpoint says of its model; ConfigError if that is no model of this version."""
    state = checkpoint.state
    try:
        vision = Vision.model_validate(state["vision"]) if state["vision"] else None
        return LanguageModel.model_validate(state["model"]), vision
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{checkpoint.path}: no model of this version") from error
