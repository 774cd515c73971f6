"""Reading a vision task: NAME.json says how it is asked and scored, a JSONL file holds its questions.

{"format": 1, "questions": "NAME.jsonl", "metric": "exact_match", "prompt": "{question}", "chance": 0.2,
 "chance_by_kind": {"count": 0.25}}
{"id": "1", "image": "images/1.png", "question": "How many shapes are there?", "answers": ["two"], "kind": "count"}

A NAME.json with `family` is about a published benchmark instead, see `read_family_task`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stages.config import Count, Share, Task
from stages.errors import DataError
from stages.evaluation.benchmarks.family import SHORT_ANSWER, Family
from stages.evaluation.benchmarks.registry import find_family
from stages.evaluation.metrics import RULES, find_reference_problem
from stages.evaluation.questions import (
    Question,
    VisionTask,
    check_images,
    parse_json,
    read_text,
    resolve_task_file,
    resolve_task_path,
    select_subset,
)
from stages.job_file import summarize_error
from stages.plugins import PluginError

# Reading the task file of a published benchmark.
#
# {"format": 1, "family": "vqav2", "questions": "v2_OpenEnded_mscoco_val2014_questions.json", "annotations":
# "v2_mscoco_val2014_annotations.json", "images": "val2014", "slim": 1024, "seed": 21}

SEED = 21
"""vlm-evaluation's, though it chooses otherwise."""


class FamilyFile(BaseModel):
    """What every family's task file may say; its other keys name the published files."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, str]

    format: Literal[1]
    family: str
    images: str
    prompt: Annotated[str, Field(pattern=r"\{question\}")] | None = None
    chance: Share | None = None
    chance_by_kind: Mapping[str, Share] = {}
    slim: Count | None = None
    """How many questions, or of each kind where the family is scored by kind; None: all of them."""
    seed: int = SEED
    """Of the choice of `slim`."""


def read_family_task(folder: Path, path: Path, content: Mapping[str, Any], task: Task) -> VisionTask:
    """The task of `path`, a file of `folder` with that content. DataError names file, key and what is wrong.

    Every image has to be there: a benchmark of which a part is missing has another score.
    """
    try:
        about = FamilyFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {summarize_error(error)}") from error
    try:
        family = find_family(about.family, task.plugin)
    except PluginError as error:
        raise DataError(f"{path}: {error}") from error
    images = resolve_task_path(folder, about.images, f"{path}: images")
    questions = list(family.read(resolve_published_files(folder, path, about, family)))
    check_ids(path, questions)
    if about.slim is not None:
        questions = select_subset(questions, about.slim, about.seed, by_kind=family.by_kind)
    questions = questions[: task.limit]
    if not questions:
        raise DataError(f"{path}: no questions in the files of family {about.family}")
    check_images(path, images, questions)
    return VisionTask(
        name=task.name,
        folder=images,
        metric=family.metric,
        prompt=about.prompt or family.prompt,
        chance=family.chance if about.chance is None else about.chance,
        chance_by_kind=about.chance_by_kind,
        questions=tuple(questions),
        mean_of_kinds=family.mean_of_kinds,
        extra_metrics=family.extra_metrics,
        rule=family.rule,
    )


def resolve_published_files(folder: Path, path: Path, about: FamilyFile, family: Family) -> dict[str, Path]:
    """The published files by key, in the family's order; they may be links. DataError for a missing or unknown key."""
    given = about.__pydantic_extra__
    known = (*family.files, *family.any_of)
    if unknown := [key for key in given if key not in known]:
        raise DataError(f"{path}: {unknown[0]}: unknown; the files of family {family.name} are {', '.join(known)}")
    if missing := [key for key in family.files if key not in given]:
        raise DataError(f"{path}: {missing[0]}: missing; the files of family {family.name} are {', '.join(known)}")
    if not given:
        raise DataError(f"{path}: family {family.name} needs at least one of {', '.join(family.any_of)}")
    return {key: resolve_task_path(folder, given[key], f"{path}: {key}") for key in known if key in given}


def check_ids(path: Path, questions: Sequence[Question]) -> None:
    """DataError if a question is there twice: it would be scored twice, and a subset could not distinguish the two."""
    [(name, count)] = Counter(question.id for question in questions).most_common(1) or [("", 1)]
    if count > 1:
        raise DataError(f"{path}: question id {name!r} is there {count} times")


class _VisionTaskFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    questions: str
    metric: str
    prompt: Annotated[str, Field(pattern=r"\{question\}")] = SHORT_ANSWER
    chance: Share
    chance_by_kind: Mapping[str, Share] = {}

    @field_validator("metric")
    @classmethod
    def check_metric(cls, metric: str) -> str:
        if metric not in RULES:
            raise ValueError(f"unknown; metrics are {', '.join(RULES)}")
        return metric


class _QuestionLine(Question):
    """A line of our own question files."""

    question: str = Field(min_length=1)


def read_vision_task(folder: Path, task: Task) -> VisionTask:
    """The task NAME.json of `folder`, its first `limit` questions; DataError names file, line and what is wrong."""
    path = folder / f"{task.name}.json"
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {summarize_error(error)}") from error
    if isinstance(content, dict) and "family" in content:
        return read_family_task(folder, path, content, task)
    return read_own_task(folder, path, parse_json(_VisionTaskFile, text, str(path)), task)


def read_own_task(folder: Path, path: Path, about: _VisionTaskFile, task: Task) -> VisionTask:
    """The task of a file in our own format."""
    source = resolve_task_file(folder, about.questions, str(path))
    lines = [line for line in read_text(source).split("\n") if line.strip()][: task.limit]
    questions = tuple(
        parse_json(_QuestionLine, line, f"{source}, line {number}") for number, line in enumerate(lines, start=1)
    )
    if not questions:
        raise DataError(f"{source}: no questions in it")
    for number, question in enumerate(questions, start=1):
        if problem := find_reference_problem(about.metric, question.answers):
            raise DataError(f"{source}, line {number}: answers: {problem}")
    check_ids(source, questions)
    return VisionTask(
        name=task.name,
        folder=folder,
        metric=about.metric,
        prompt=about.prompt,
        chance=about.chance,
        chance_by_kind=about.chance_by_kind,
        questions=questions,
    )
