"""Reading a vision task: NAME.json says how it is asked and scored, a JSONL file holds its questions.

{"format": 1, "questions": "NAME.jsonl", "metric": "exact_match", "prompt": "{question}", "chance": 0.2,
 "chance_by_kind": {"count": 0.25}}
{"id": "1", "image": "images/1.png", "question": "How many shapes are there?", "answers": ["two"], "kind": "count"}

A NAME.json with `family` is about a published benchmark instead, see `family_task`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from stages.config import Share, Task
from stages.errors import DataError
from stages.evaluation.benchmarks.family import SHORT_ANSWER
from stages.evaluation.family_task import check_ids, read_family_task
from stages.evaluation.metrics import RULES
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.task_files import inside, parsed, read_text
from stages.job_file import one_line


class _TaskFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    questions: str
    metric: str
    prompt: Annotated[str, Field(pattern=r"\{question\}")] = SHORT_ANSWER
    chance: Share
    chance_by_kind: Mapping[str, Share] = {}

    @field_validator("metric")
    @classmethod
    def known(cls, metric: str) -> str:
        if metric not in RULES:
            raise ValueError(f"unknown; metrics are {', '.join(RULES)}")
        return metric


class _Line(Question):
    """A line of our own question files."""

    question: str = Field(min_length=1)


def read_vision_task(folder: Path, task: Task) -> VisionTask:
    """The task NAME.json of `folder`, its first `limit` questions; DataError names file, line and what is wrong."""
    path = folder / f"{task.name}.json"
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {one_line(error)}") from error
    if isinstance(content, dict) and "family" in content:
        return read_family_task(folder, path, content, task)
    return read_own_task(folder, path, parsed(_TaskFile, text, str(path)), task)


def read_own_task(folder: Path, path: Path, about: _TaskFile, task: Task) -> VisionTask:
    """The task of a file in our own format."""
    source = inside(folder, about.questions, str(path))
    lines = [line for line in read_text(source).split("\n") if line.strip()][: task.limit]
    questions = tuple(parsed(_Line, line, f"{source}, line {number}") for number, line in enumerate(lines, start=1))
    if not questions:
        raise DataError(f"{source}: no questions in it")
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
