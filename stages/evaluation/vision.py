"""Questions about images: greedy answers, compared with the references by the task's rule."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from stages.data.images import PictureReader
from stages.data.prompts import PLAIN
from stages.data.sample import BadSampleError
from stages.errors import ConfigError, DataError
from stages.evaluation.answers import RULES
from stages.evaluation.score import Score, mean, standard_error
from stages.evaluation.subject import Subject
from stages.evaluation.vision_task import Question, VisionTask
from stages.eyes import Eyes
from stages.generation import greedy

QUESTIONS_AT_ONCE = 256
"""Bounds the memory that images' features take."""
IMAGES_AT_ONCE = 32


def score_vision_task(task: VisionTask, subject: Subject, images: PictureReader, eyes: Eyes) -> Score:
    """Mean over all questions, and per kind; the loss of a question is 1 - its rule's value."""
    answers: list[str] = []
    for start in range(0, len(task.questions), QUESTIONS_AT_ONCE):
        answers += answer(task, task.questions[start : start + QUESTIONS_AT_ONCE], subject, images, eyes)
    return score_answers(task, answers)


def answer(
    task: VisionTask, questions: Sequence[Question], subject: Subject, images: PictureReader, eyes: Eyes
) -> list[str]:
    """The model's answers; each image is encoded once, however many questions there are about it."""
    paths = {question.image: task.image_path(question) for question in questions}
    seen = looked_at(paths, task.name, images, eyes)
    room = subject.context - images.image_tokens - subject.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"context {subject.context} has no room for {images.image_tokens} image tokens, a question and "
            f"{subject.max_new_tokens} new tokens; raise context or lower max_new_tokens"
        )
    prompts = [subject.tokenizer.encode(PLAIN.format_question(task.prompt_of(question))) for question in questions]
    with subject.computing():
        generated = greedy(
            subject.vlm,
            [prompt[-room:] for prompt in prompts],
            max_new_tokens=subject.max_new_tokens,
            stop_token=subject.tokenizer.end_of_text,
            features=torch.stack([seen[question.image] for question in questions]),
        )
    return [subject.tokenizer.decode(tokens).strip() for tokens in generated]


def looked_at(paths: dict[str, Path], task: str, images: PictureReader, eyes: Eyes) -> dict[str, torch.Tensor]:
    """What the model takes of each image, by its name; DataError names one that cannot be used."""
    seen: dict[str, torch.Tensor] = {}
    names = list(paths)
    for start in range(0, len(names), IMAGES_AT_ONCE):
        part = names[start : start + IMAGES_AT_ONCE]
        try:
            pictures = [images.read(f"task {task!r}, image {name!r}", paths[name].read_bytes) for name in part]
        except BadSampleError as error:
            raise DataError(str(error)) from error
        seen |= zip(part, eyes.look(pictures), strict=True)
    return seen


def score_answers(task: VisionTask, answers: Sequence[str]) -> Score:
    """The task's score of answers given in the order of its questions."""
    rule = RULES[task.metric]
    values = [rule(given, question.answers) for given, question in zip(answers, task.questions, strict=True)]
    by_kind: dict[str, list[float]] = defaultdict(list)
    for question, value in zip(task.questions, values, strict=True):
        by_kind[question.kind].append(value)
    metrics = {"accuracy": mean(values)}
    metrics |= {f"accuracy/{kind}": mean(by_kind[kind]) for kind in sorted(by_kind) if kind}
    metrics |= {f"chance/{kind}": level for kind, level in sorted(task.chance_by_kind.items())}
    return Score(
        kind="vision",
        score=metrics["accuracy"],
        stderr=standard_error(values),
        chance=task.chance,
        n=len(values),
        metrics=metrics,
    )
