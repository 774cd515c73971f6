"""Questions about images: greedy answers, compared with the references by the task's rule."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from stages.data.prompts import PLAIN
from stages.errors import ConfigError, DataError
from stages.evaluation.answers import RULES
from stages.evaluation.score import Score, mean, standard_error
from stages.evaluation.subject import Subject
from stages.evaluation.vision_task import Question, VisionTask
from stages.generation import greedy
from stages.vision import BadImageError, Encoder, decode_image

QUESTIONS_AT_ONCE = 256
"""Bounds the memory that images' features take."""
IMAGES_AT_ONCE = 32


def score_vision_task(task: VisionTask, subject: Subject, encoder: Encoder) -> Score:
    """Mean over all questions, and per kind; the loss of a question is 1 - its rule's value."""
    answers: list[str] = []
    for start in range(0, len(task.questions), QUESTIONS_AT_ONCE):
        answers += answer(task, task.questions[start : start + QUESTIONS_AT_ONCE], subject, encoder)
    return score_answers(task, answers)


def answer(task: VisionTask, questions: Sequence[Question], subject: Subject, encoder: Encoder) -> list[str]:
    """The model's answers; each image is encoded once, however many questions there are about it."""
    paths = {question.image: task.image_path(question) for question in questions}
    features = encoded({name: path.read_bytes() for name, path in paths.items()}, task.name, encoder)
    room = subject.context - encoder.spec.image_tokens - subject.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"context {subject.context} has no room for {encoder.spec.image_tokens} image tokens, a question and "
            f"{subject.max_new_tokens} new tokens; raise context or lower max_new_tokens"
        )
    prompts = [subject.tokenizer.encode(PLAIN.format_question(task.prompt_of(question))) for question in questions]
    with subject.computing():
        generated = greedy(
            subject.vlm,
            [prompt[-room:] for prompt in prompts],
            max_new_tokens=subject.max_new_tokens,
            stop_token=subject.tokenizer.end_of_text,
            features=torch.stack([features[question.image] for question in questions]),
        )
    return [subject.tokenizer.decode(tokens).strip() for tokens in generated]


def encoded(images: dict[str, bytes], task: str, encoder: Encoder) -> dict[str, torch.Tensor]:
    """Features by image name; DataError names an image that cannot be used."""
    features: dict[str, torch.Tensor] = {}
    names = list(images)
    for start in range(0, len(names), IMAGES_AT_ONCE):
        part = names[start : start + IMAGES_AT_ONCE]
        pixels = []
        for name in part:
            try:
                pixels.append(decode_image(images[name], encoder.spec.image_size))
            except BadImageError as error:
                raise DataError(f"task {task!r}, image {name!r}: {error}") from error
        features |= zip(part, encoder.encode(torch.stack(pixels)), strict=True)
    return features


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
