"""Questions about images: greedy answers in batches, kept as they come, and then scored."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from stages.data.image_reader import EncoderImageReader
from stages.data.sample import BadSampleError
from stages.distributed import DistributedContext, all_gather_objects, is_stop_requested
from stages.errors import ConfigError, DataError
from stages.evaluation.evaluated_model import EvaluatedModel
from stages.evaluation.metrics import RULES
from stages.evaluation.question_scores import QuestionScores
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.score import Score, compute_standard_error
from stages.files import check_fence, convert_storage_errors
from stages.log_lines import TaskLines
from stages.models.generation import generate_greedy
from stages.stop import StopFlag
from stages.vision.feature_extractor import FeatureExtractor

# Answers on disk as they come, so that a long evaluation that was stopped or killed goes on where it was.
#
# `answers-NAME.RANK.jsonl`: a line that says what was asked, then {"id": ..., "answer": ...} a line. What a kill tore
# is dropped. All ranks' files are read, so that an evaluation may go on with another number of processes. Ranks that
# work together exchange what is in them (`stages.distributed`): on a network disk another node's file may show
# late.

FORMAT = 1


class AnswerLog:
    """The answers to one task's questions so far."""

    def __init__(self, folder: Path, task: VisionTask, rank: int = 0) -> None:
        """Reads what is there; a file about other questions counts for nothing. `rank`: whose file to write."""
        self._pattern = f"answers-{task.name}.*.jsonl"
        self._path = folder / f"answers-{task.name}.{rank}.jsonl"
        self._head = json.dumps({"format": FORMAT, "task": task.name, "asked": compute_task_digest(task)})
        self._size = 0
        """Bytes of whole lines in this rank's own file."""
        self.answers: dict[str, str] = {}
        for path in sorted(self._path.parent.glob(self._pattern)):
            found, size = parse_answers(path.read_bytes(), self._head)
            self.answers |= found
            self._size = size if path == self._path else self._size

    def add(self, answers: Mapping[str, str]) -> None:
        """Appends answers by question id; on disk when this returns. StorageError, FencedError."""
        lines = [] if self._size else [self._head]
        lines += [json.dumps({"id": name, "answer": answer}) for name, answer in answers.items()]
        content = "".join(f"{line}\n" for line in lines).encode()
        check_fence()
        with convert_storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.truncate(self._size)  # what a kill tore, or what was about other questions
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self._size += len(content)
        self.answers |= answers


def compute_task_digest(task: VisionTask) -> str:
    """A digest of all that an answer depends on and that the task's files hold."""
    digest = sha256()
    for question in task.questions:
        digest.update(json.dumps([question.id, question.image, task.format_prompt(question)]).encode())
    return digest.hexdigest()


def parse_answers(content: bytes, head: str) -> tuple[dict[str, str], int]:
    """A file's answers up to the first line that is torn, and how many bytes they are; none under another head."""
    answers: dict[str, str] = {}
    if not content.startswith(f"{head}\n".encode()):
        return answers, 0
    size = len(head.encode()) + 1
    for line in content[size:].splitlines(keepends=True):
        found = parse_answer(line)
        if found is None:
            break
        answers[found[0]] = found[1]
        size += len(line)
    return answers, size


def parse_answer(line: bytes) -> tuple[str, str] | None:
    """Question id and answer of a whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: Any = json.loads(line)
        return str(entry["id"]), str(entry["answer"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


# From the answers to a vision task's questions to its score.


def score_answers(task: VisionTask, answers: Sequence[str]) -> Score:
    """The task's score of answers given in the order of its questions: over all, per kind, and what it adds."""
    rule = task.rule or RULES[task.metric]
    values = [rule(given, question.answers) for given, question in zip(answers, task.questions, strict=True)]
    by_kind: dict[str, list[float]] = defaultdict(list)
    for question, value in zip(task.questions, values, strict=True):
        by_kind[question.kind].append(value)
    accuracy = (
        compute_sequential_mean([compute_sequential_mean(kind) for kind in by_kind.values()])
        if task.mean_of_kinds
        else compute_sequential_mean(values)
    )
    metrics = {"accuracy": accuracy}
    metrics |= {f"accuracy/{kind}": compute_sequential_mean(by_kind[kind]) for kind in sorted(by_kind) if kind}
    metrics |= {f"chance/{kind}": level for kind, level in sorted(task.chance_by_kind.items())}
    return Score(
        kind="vision",
        score=accuracy,
        stderr=compute_kinds_error(by_kind) if task.mean_of_kinds else compute_standard_error(values),
        chance=task.chance,
        n=len(values),
        requests=len(values),
        metrics=metrics | task.extra_metrics(task.questions, answers),
        questions=QuestionScores(
            ids=tuple(question.id for question in task.questions),
            clusters=tuple(question.image for question in task.questions),
            values=tuple(values),
            strata=tuple(question.kind for question in task.questions) if task.mean_of_kinds else (),
        ),
    )


def compute_sequential_mean(values: Sequence[float]) -> float:
    """Added up one after the other, as the official scorers do: a better sum would differ from theirs at the end."""
    return sum(values) / len(values)


def compute_kinds_error(by_kind: Mapping[str, Sequence[float]]) -> float | None:
    """Standard error of the mean of the kinds' means, which are taken to be independent."""
    errors = [compute_standard_error(values) for values in by_kind.values()]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(errors) if len(known) == len(errors) else None


QUESTIONS_AT_ONCE = 256
"""Bounds the memory that images' features take."""
IMAGES_AT_ONCE = 32


def score_vision_task(
    task: VisionTask,
    subject: EvaluatedModel,
    images: EncoderImageReader,
    extractor: FeatureExtractor,
    *,
    folder: Path,
    stop: StopFlag,
    world: DistributedContext,
) -> Score | None:
    """Asks what is not answered yet, and scores all of it; None if it was stopped before the end.

    Answers are kept in `folder` (`AnswerLog`). Of several processes each asks its share, all of them score; they stop
    together. DataError for an image that cannot be used, ConfigError if the context has no room for a question.
    """
    log = AnswerLog(folder, task, world.rank)
    # the first rank's word: what another node's disk shows of an earlier attempt may be less
    answers: dict[str, str] = all_gather_objects(log.answers if world.is_first_rank else {}, world.peers)[0]
    left = [question for question in task.questions if question.id not in answers]
    lines = TaskLines(task.name, writes=world.is_first_rank, done_before=len(task.questions) - len(left))
    for parts in split_rounds(left, world.size):
        if is_stop_requested(stop, world):
            return None
        part = parts[world.rank]
        given = generate_answers(task, part, subject, images, extractor) if part else []
        new = {question.id: text for question, text in zip(part, given, strict=True)}
        if new:
            log.add(new)
        for found in all_gather_objects(new, world.peers):
            answers |= found
        lines.note(sum(question.id in answers for question in task.questions), len(task.questions), "questions")
    return score_answers(task, [answers[question.id] for question in task.questions])


def count_positions(task: VisionTask, subject: EvaluatedModel, image_tokens: int) -> int:
    """Positions of the task's prompts: start, image and text."""
    texts = [subject.template.format_question(task.format_prompt(question)) for question in task.questions]
    each = len(subject.start) + image_tokens
    return each * len(task.questions) + sum(map(len, subject.tokenizer.encode_batch(texts)))


def split_rounds(questions: Sequence[Question], size: int) -> Iterator[list[Sequence[Question]]]:
    """The questions in rounds, each with a part for every rank; neighbours, which share images, stay together."""
    count = min(QUESTIONS_AT_ONCE, -(-len(questions) // size))
    for first in range(0, len(questions), max(1, size * count)):
        starts = range(first, first + size * count, count)
        yield [questions[start : start + count] for start in starts]


def generate_answers(
    task: VisionTask,
    questions: Sequence[Question],
    subject: EvaluatedModel,
    images: EncoderImageReader,
    extractor: FeatureExtractor,
) -> list[str]:
    """The model's answers; each image is encoded once, however many questions there are about it."""
    paths = {question.image: task.resolve_image(question) for question in questions}
    seen = encode_images(paths, task.name, images, extractor)
    room = subject.context - len(subject.start) - images.image_tokens - subject.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"context {subject.context} has no room for {images.image_tokens} image tokens, a question and "
            f"{subject.max_new_tokens} new tokens; raise context or lower max_new_tokens"
        )
    prompts = [
        subject.tokenizer.encode(subject.template.format_question(task.format_prompt(question)))
        for question in questions
    ]
    with subject.enter_inference():
        generated = generate_greedy(
            subject.vlm,
            [prompt[-room:] for prompt in prompts],
            max_new_tokens=subject.max_new_tokens,
            stop_token=subject.tokenizer.end_of_text,
            start=subject.start,
            features=torch.stack([seen[question.image] for question in questions]),
        )
    return [subject.tokenizer.decode(tokens).strip() for tokens in generated]


def encode_images(
    paths: dict[str, Path], task: str, images: EncoderImageReader, extractor: FeatureExtractor
) -> dict[str, torch.Tensor]:
    """What the model takes of each image, by its name; DataError names one that cannot be used."""
    seen: dict[str, torch.Tensor] = {}
    names = list(paths)
    for start in range(0, len(names), IMAGES_AT_ONCE):
        part = names[start : start + IMAGES_AT_ONCE]
        try:
            inputs = [images.read(f"task {task!r}, image {name!r}", paths[name].read_bytes) for name in part]
        except BadSampleError as error:
            raise DataError(str(error)) from error
        seen |= zip(part, extractor.extract_features(inputs), strict=True)
    return seen
