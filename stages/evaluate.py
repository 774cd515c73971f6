"""The evaluate stage: scores of the parent's model on text tasks (lm-eval) and on questions about images (ours)."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from stages.checkpoint import LoadedModel, load_model
from stages.config import EvaluateConfig
from stages.data.images import open_pictures
from stages.data.prompts import template_of
from stages.data.text_tokenizer import TextTokenizer
from stages.device import compute_device
from stages.errors import ConfigError
from stages.evaluation.score import Score
from stages.evaluation.subject import Subject
from stages.evaluation.text import score_text_task
from stages.evaluation.text_task import read_text_task
from stages.evaluation.trusted_task import score_trusted_task
from stages.evaluation.vision import score_vision_task
from stages.evaluation.vision_task import read_vision_task
from stages.eyes import load_eyes
from stages.files import write_json
from stages.job_file import JobFile
from stages.matmul import choose_matmul
from stages.result import Result, write_result
from stages.stop import StopFlag

Scorer = Callable[[], Score | None]
"""None: stopped before the end; what it has so far is on disk."""


def run(job: JobFile, stop: StopFlag) -> bool:
    """Scores every task of the job's configuration; a task that was scored before an interruption is not run again.

    DataError for a malformed task, DamagedInputError for a parent whose checkpoint does not hold.
    """
    config = job.config
    if not isinstance(config, EvaluateConfig) or len(job.parents) != 1:
        raise ConfigError(f"job {job.key}: an evaluation needs its configuration and exactly one parent")
    loaded = load_model(job.parents[0].run, job.parents[0].key)
    progress = Progress.read(job.checkpoints / "scores.json")
    for name, scorer in scorers(job, config, loaded, stop):
        if stop.requested:
            return False
        if name not in progress.scores and not progress.add(name, scorer):
            return False
    write_result(job, Result(seconds=progress.seconds, scores=progress.scores))
    return True


def scorers(job: JobFile, config: EvaluateConfig, loaded: LoadedModel, stop: StopFlag) -> Iterator[tuple[str, Scorer]]:
    """Each task's name and what scores it. All task files are read before the first is scored."""
    folder = job.data_path(config.tasks)
    subject = make_subject(job, config, loaded)
    trusted = [task for task in config.text_tasks if task.trusted]
    text = [read_text_task(folder, task) for task in config.text_tasks if not task.trusted]
    vision = [read_vision_task(folder, task) for task in config.vision_tasks]
    names = [task.name for task in config.text_tasks] + [task.name for task in vision]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"text_tasks and vision_tasks must name at least one task, each once; given: {names}")
    if vision and loaded.vlm.vision is None:
        raise ConfigError(f"vision tasks {', '.join(task.name for task in vision)}: the model sees no images")
    if vision and loaded.checkpoint.state.get("start_of_text"):
        raise ConfigError("vision tasks: a model that was fine-tuned with a start-of-text token is not evaluated yet")
    for task in trusted:  # before the others, which take the network from lm-eval's libraries for good
        yield task.name, partial(score_trusted_task, folder, task, subject, samples_of(job, task.name))
    for text_task in text:
        yield text_task.name, partial(score_text_task, text_task, subject, samples_of(job, text_task.name))
    if loaded.vlm.vision is not None and vision:
        eyes = load_eyes(job, loaded.vlm.vision, subject.device)
        images = open_pictures(job, loaded.vlm.vision, eyes.known)
        for vision_task in vision:
            ask = partial(score_vision_task, vision_task, subject, images, eyes)
            yield vision_task.name, partial(ask, folder=job.checkpoints, stop=stop)


def samples_of(job: JobFile, task: str) -> Path | None:
    """Where the log of a text task's documents goes, if it is asked for."""
    return job.run / "samples" / f"{task}.jsonl" if job.settings.log_samples else None


def make_subject(job: JobFile, config: EvaluateConfig, loaded: LoadedModel) -> Subject:
    """The parent's model on this machine's device."""
    device = compute_device(job.settings.device)
    if device.type == "cpu":
        choose_matmul(loaded.vlm, "onednn")
    return Subject(
        vlm=loaded.vlm.to(device),
        tokenizer=TextTokenizer(job.data_path(config.tokenizer.name), loaded.vlm.lm.config.vocabulary),
        template=template_of(loaded.checkpoint.state),
        device=device,
        precision=config.precision,
        context=config.context,
        max_new_tokens=config.max_new_tokens,
    )


class Progress:
    """The scores so far, on disk after every task, so that a stopped evaluation goes on where it was."""

    def __init__(self, path: Path, scores: dict[str, Any], seconds: float) -> None:
        self.path, self.scores, self.seconds = path, scores, seconds

    @classmethod
    def read(cls, path: Path) -> "Progress":
        try:
            content = json.loads(path.read_bytes())
            return cls(path, dict(content["scores"]), float(content["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path, {}, 0.0)

    def add(self, name: str, scorer: Scorer) -> bool:
        """Whether the task was scored to its end."""
        started = time.monotonic()
        score = scorer()
        self.seconds += time.monotonic() - started
        if score is not None:
            self.scores[name] = score.record()
        write_json(self.path, {"scores": self.scores, "seconds": self.seconds})
        if score is not None:
            print(f"{name}: {score.score:.4f} ({score.kind}, n {score.n}, chance {score.chance})", file=sys.stderr)
        return score is not None
