"""Reading a vision task: NAME.json says how it is asked and scored, a JSONL file holds its questions.

{"format": 1, "questions": "NAME.jsonl", "metric": "exact_match", "prompt": "{question}", "chance": 0.2,
 "chance_by_kind": {"count": 0.25}}
{"id": "1", "image": "images/1.png", "question": "How many shapes are there?", "answers": ["two"], "kind": "count"}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.config import Share, Task
from stages.errors import DataError
from stages.job_file import one_line

SHORT_ANSWER = "{question}\nAnswer the question using a single word or phrase."
"""The prompt of vlm-evaluation's question tasks."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(_Entry):
    """One question about one image. `image` is relative to the task file's folder."""

    id: str = Field(min_length=1)
    image: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answers: tuple[str, ...] = Field(min_length=1)
    kind: str = ""


class _TaskFile(_Entry):
    format: Literal[1]
    questions: str
    metric: Literal["vqa_accuracy", "gqa_accuracy", "exact_match"]
    prompt: Annotated[str, Field(pattern=r"\{question\}")] = SHORT_ANSWER
    chance: Share
    chance_by_kind: Mapping[str, Share] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTask:
    """A vision task with its questions."""

    name: str
    folder: Path
    metric: str
    prompt: str
    """Holds `{question}`."""
    chance: float
    chance_by_kind: Mapping[str, float]
    questions: tuple[Question, ...]

    def prompt_of(self, question: Question) -> str:
        return self.prompt.replace("{question}", question.question)

    def image_path(self, question: Question) -> Path:
        """DataError if the image lies outside the task's folder or is not there."""
        return inside(self.folder, question.image, f"task {self.name!r}, question {question.id!r}")


def read_vision_task(folder: Path, task: Task) -> VisionTask:
    """The task NAME.json of `folder`, its first `limit` questions; DataError names file, line and what is wrong."""
    path = folder / f"{task.name}.json"
    about = _parsed(_TaskFile, read_text(path), str(path))
    source = inside(folder, about.questions, str(path))
    lines = [line for line in read_text(source).split("\n") if line.strip()][: task.limit]
    questions = tuple(_parsed(Question, line, f"{source}, line {number}") for number, line in enumerate(lines, start=1))
    if not questions:
        raise DataError(f"{source}: no questions in it")
    return VisionTask(
        name=task.name,
        folder=folder,
        metric=about.metric,
        prompt=about.prompt,
        chance=about.chance,
        chance_by_kind=about.chance_by_kind,
        questions=questions,
    )


def read_text(path: Path) -> str:
    """A file's text; DataError if it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`; DataError if that leaves the folder or is no file."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name!r} leads out of {folder}; files of a task lie below its folder")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}")
    return path


Parsed = TypeVar("Parsed", bound=BaseModel)


def _parsed(kind: type[Parsed], text: str, where: str) -> Parsed:
    try:
        return kind.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: {one_line(error)}") from error
