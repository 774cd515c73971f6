"""Questions about images: greedy answers in batches, kept as they come, and then scored."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from stages.data.images import PictureReader
from stages.data.sample import BadSampleError
from stages.distributed import World
from stages.errors import ConfigError, DataError
from stages.evaluation.answer_log import AnswerLog
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.score import Score
from stages.evaluation.subject import Subject
from stages.evaluation.vision_score import score_answers
from stages.models.generation import greedy
from stages.sharing import asked_to_stop, gathered
from stages.stop import StopFlag
from stages.vision.feature_extractor import Eyes

QUESTIONS_AT_ONCE = 256
"""Bounds the memory that images' features take."""
IMAGES_AT_ONCE = 32


def score_vision_task(
    task: VisionTask,
    subject: Subject,
    images: PictureReader,
    eyes: Eyes,
    *,
    folder: Path,
    stop: StopFlag,
    world: World,
) -> Score | None:
    """Asks what is not answered yet, and scores all of it; None if it was stopped before the end.

    Answers are kept in `folder` (`answer_log`). Of several processes each asks its share, all of them score; they stop
    together. DataError for an image that cannot be used, ConfigError if the context has no room for a question.
    """
    log = AnswerLog(folder, task, world.rank)
    # the first rank's word: what another node's disk shows of an earlier attempt may be less
    answers: dict[str, str] = gathered(log.answers if world.first else {}, world.peers)[0]
    left = [question for question in task.questions if question.id not in answers]
    for parts in rounds(left, world.size):
        if asked_to_stop(stop, world):
            return None
        part = parts[world.rank]
        given = answer(task, part, subject, images, eyes) if part else []
        new = {question.id: text for question, text in zip(part, given, strict=True)}
        if new:
            log.add(new)
        for found in gathered(new, world.peers):
            answers |= found
    return score_answers(task, [answers[question.id] for question in task.questions])


def rounds(questions: Sequence[Question], size: int) -> Iterator[list[Sequence[Question]]]:
    """The questions in rounds, each with a part for every rank; neighbours, which share images, stay together."""
    count = min(QUESTIONS_AT_ONCE, -(-len(questions) // size))
    for first in range(0, len(questions), max(1, size * count)):
        starts = range(first, first + size * count, count)
        yield [questions[start : start + count] for start in starts]


def answer(
    task: VisionTask, questions: Sequence[Question], subject: Subject, images: PictureReader, eyes: Eyes
) -> list[str]:
    """The model's answers; each image is encoded once, however many questions there are about it."""
    paths = {question.image: task.image_path(question) for question in questions}
    seen = looked_at(paths, task.name, images, eyes)
    room = subject.context - len(subject.start) - images.image_tokens - subject.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"context {subject.context} has no room for {images.image_tokens} image tokens, a question and "
            f"{subject.max_new_tokens} new tokens; raise context or lower max_new_tokens"
        )
    prompts = [
        subject.tokenizer.encode(subject.template.format_question(task.prompt_of(question))) for question in questions
    ]
    with subject.computing():
        generated = greedy(
            subject.vlm,
            [prompt[-room:] for prompt in prompts],
            max_new_tokens=subject.max_new_tokens,
            stop_token=subject.tokenizer.end_of_text,
            start=subject.start,
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
