"""The evaluate stage: scores of the parent's model on text tasks (lm-eval) and on questions about images (ours)."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.checkpoint.files import LoadedModel, build_model, read_result_checkpoint
from stages.config import EvaluateConfig
from stages.data.image_reader import EncoderImageReader, open_image_reader
from stages.data.prompts import restore_template
from stages.data.tokenizer import TextTokenizer
from stages.distributed import DistributedContext, all_gather_objects, is_stop_requested, open_distributed_context
from stages.errors import ConfigError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.question_scores import write_question_scores
from stages.evaluation.questions import VisionTask
from stages.evaluation.score import Score
from stages.evaluation.text import score_text_task, score_trusted_task
from stages.evaluation.text_task import read_text_task
from stages.evaluation.vision import count_positions, score_vision_task
from stages.evaluation.vision_task import read_vision_task
from stages.files import write_json
from stages.job_file import JobFile
from stages.log_lines import write_log_line
from stages.models.linear import pack_weights, set_matmul_backend
from stages.precision import report_slow_precision
from stages.result import Result, write_result
from stages.stop import StopFlag
from stages.trackers import build_score_figures, describe_tracked_run, hold_trackers, open_trackers
from stages.vision.feature_extractor import FeatureExtractor, load_feature_extractor

Scorer = Callable[[], Score | None]
"""None: stopped before the end; what it has so far is on disk."""


def run(job: JobFile, stop: StopFlag) -> bool:
    """Scores every task of the job's configuration; a task that was scored before an interruption is not run again.

    Of several processes each has a whole copy of the model; they share every task, and the first one writes. DataError
    for a malformed task, DamagedInputError for a parent whose checkpoint does not hold.
    """
    config = job.config
    if not isinstance(config, EvaluateConfig) or len(job.parents) != 1:
        raise ConfigError(f"job {job.key}: an evaluation needs its configuration and exactly one parent")
    with open_distributed_context(job.settings, stop) as world:
        names = job.settings.trackers if world.is_first_rank else ()
        with hold_trackers(open_trackers(names, describe_tracked_run(job))) as trackers:
            loaded = load_parent(job, world)
            progress = EvaluationProgress.read(job, world)
            count = len(config.text_tasks) + len(config.vision_tasks)
            for number, (name, scorer) in enumerate(iter_scorers(job, config, loaded, stop, world), start=1):
                if is_stop_requested(stop, world):
                    return False
                if name in progress.scores:
                    continue
                if world.is_first_rank:
                    write_log_line(f"{name}: task {number} of {count} begins")
                if not progress.add(name, scorer):
                    return False
            for tracker in trackers:
                tracker.write_scores(build_score_figures(progress.scores))
        if world.is_first_rank:
            write_result(job, Result(seconds=progress.seconds, scores=progress.scores))
    return True


def load_parent(job: JobFile, world: DistributedContext) -> LoadedModel:
    """The parent's model, on the CPU; the first rank checks its checkpoint's files."""
    parent = job.parents[0]
    checkpoint = read_result_checkpoint(parent.run, parent.key, verify=world.is_first_rank)
    world.wait()  # until the first rank has found it whole
    return build_model(checkpoint, parent.key)


def iter_scorers(
    job: JobFile, config: EvaluateConfig, loaded: LoadedModel, stop: StopFlag, world: DistributedContext
) -> Iterator[tuple[str, Scorer]]:
    """Each task's name and what scores it. All task files are read before the first is scored."""
    folder = job.resolve_data_path(config.tasks)
    subject = build_evaluated_model(job, config, loaded, world)
    trusted = [task for task in config.text_tasks if task.trusted]
    text = [read_text_task(folder, task) for task in config.text_tasks if not task.trusted]
    vision = [read_vision_task(folder, task) for task in config.vision_tasks]
    names = [task.name for task in config.text_tasks] + [task.name for task in vision]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"text_tasks and vision_tasks must name at least one task, each once; given: {names}")
    if vision and loaded.vlm.vision is None:
        raise ConfigError(f"vision tasks {', '.join(task.name for task in vision)}: the model sees no images")
    for task in trusted:  # before the others, which take the network from lm-eval's libraries for good
        yield task.name, partial(score_trusted_task, folder, task, subject, resolve_samples_path(job, task.name, world))
    for text_task in text:
        yield (
            text_task.name,
            partial(score_text_task, text_task, subject, resolve_samples_path(job, text_task.name, world)),
        )
    if loaded.vlm.vision is not None and vision:
        extractor = load_feature_extractor(job, loaded.vlm.vision, subject.device)
        images = open_image_reader(job, loaded.vlm.vision, extractor.cached_digests)
        for vision_task in vision:
            ask = partial(score_counted_task, vision_task, subject, images, extractor)
            yield vision_task.name, partial(ask, folder=job.checkpoints, stop=stop, world=world)


def score_counted_task(
    task: VisionTask, subject: EvaluatedModel, images: EncoderImageReader, extractor: FeatureExtractor, **how: Any
) -> Score | None:
    """As `score_vision_task`, with the positions of what was asked."""
    score = score_vision_task(task, subject, images, extractor, **how)
    return score and replace(score, tokens=count_positions(task, subject, images.image_tokens))


def resolve_samples_path(job: JobFile, task: str, world: DistributedContext) -> Path | None:
    """Where the log of a text task's documents goes, if it is asked for; the first rank writes it."""
    return job.run / "samples" / f"{task}.jsonl" if job.settings.log_samples and world.is_first_rank else None


def build_evaluated_model(
    job: JobFile, config: EvaluateConfig, loaded: LoadedModel, world: DistributedContext
) -> EvaluatedModel:
    """The parent's model on this process's device. Texts are read as in fine-tuning: no word is a special token."""
    if world.is_first_rank:
        report_slow_precision(config.precision, world.device)
    if world.device.type == "cpu":
        # packed weights pay on every processor: see D51 and D89
        set_matmul_backend(loaded.vlm, "torch" if job.settings.cpu_matmul == "torch" else "onednn")
        if config.precision == "fp32":
            pack_weights(loaded.vlm)
    return EvaluatedModel(
        vlm=loaded.vlm.to(world.device),
        tokenizer=TextTokenizer(
            job.resolve_data_path(config.tokenizer.name), loaded.vlm.lm.config.vocabulary, literal=True
        ),
        template=restore_template(loaded.checkpoint.state),
        start=tuple(loaded.checkpoint.state.get("start_of_text", ())),
        device=world.device,
        precision=config.precision,
        context=config.context,
        max_new_tokens=config.max_new_tokens,
        peers=world.peers,
    )


def locate_scores(job: JobFile) -> Path:
    """Where the tasks that are scored stand until the job is done."""
    return job.checkpoints / "scores.json"


class EvaluationProgress:
    """The scores so far, on disk after every task, so that a stopped evaluation goes on where it was."""

    def __init__(self, job: JobFile, world: DistributedContext, scores: dict[str, Any], seconds: float) -> None:
        self.path, self.questions = locate_scores(job), job.run / "questions"
        self.world, self.scores, self.seconds = world, scores, seconds

    @classmethod
    def read(cls, job: JobFile, world: DistributedContext) -> "EvaluationProgress":
        """What the first rank finds, on all ranks."""
        try:
            content = json.loads(locate_scores(job).read_bytes())
            found = dict(content["scores"]), float(content["seconds"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            found = {}, 0.0
        return cls(job, world, *all_gather_objects(found, world.peers)[0])

    def add(self, name: str, scorer: Scorer) -> bool:
        """Whether the task was scored to its end."""
        started = time.monotonic()
        score = scorer()
        self.seconds += time.monotonic() - started
        if score is not None:
            self.scores[name] = score.build_record()
        if self.world.is_first_rank:
            if score is not None and score.questions is not None:
                write_question_scores(self.questions, name, score.kind, score.questions)
            write_json(self.path, {"scores": self.scores, "seconds": self.seconds})
            if score is not None:
                write_log_line(f"{name}: {score.describe()}")
        return score is not None
