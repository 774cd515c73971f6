"""Questions about images, and the task that asks them: what the files of every format are read into."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.errors import DataError
from stages.files import read_regular
from stages.job_file import summarize_error

# Reading the files of tasks: errors name file and key, and paths stay where they belong.


def read_text(path: Path) -> str:
    """A file's text; DataError if it is missing, unreadable or not UTF-8."""
    try:
        return read_regular(path).decode().replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read: {summarize_error(error)}") from error


def resolve_task_file(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`; DataError if that leaves the folder or is no file."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise DataError(f"{where}: {name!r} leads out of {folder}; files of a task lie below its folder")
        there = path.is_file()
    except (ValueError, OSError, RuntimeError) as error:
        raise build_name_error(where, name, error) from error
    if not there:
        raise DataError(f"{where}: there is no file {path}")
    return path


def build_name_error(where: str, name: str, error: Exception) -> DataError:
    """For a name that no file system takes: with a zero byte, half a character, too many letters, links in a circle.

    An error of the disk or mount, or a file that may not be seen, is none of these and keeps its reason.
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"{where}: {name[:80]!r} cannot be looked up: {reason[:100]}")


def resolve_task_path(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`, a file or folder that the task file names; unlike `resolve_task_file` a link may lead elsewhere.

    Downloads of many gigabytes lie where there is room; the link is made by the owner of the tasks' folder, while
    what `resolve_task_file` guards against comes with the questions.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {name!r} leads out of {folder}; name a path below it, which may be a link")
    try:
        if not (folder / path).exists():
            raise DataError(f"{where}: there is no {folder / path}")
        return (folder / path).resolve()
    except (ValueError, OSError, RuntimeError) as error:
        raise build_name_error(where, name, error) from error


Parsed = TypeVar("Parsed", bound=BaseModel)


def parse_json(kind: type[Parsed], text: str, where: str) -> Parsed:
    """JSON text as a `kind`; DataError names `where` and the first key that is wrong."""
    try:
        return kind.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: {summarize_error(error)}") from error


def read_json(kind: type[Parsed], path: Path) -> Parsed:
    """A JSON file as a `kind`; DataError names the file and what is wrong."""
    text = read_text(path)
    try:
        return kind.model_validate_json(text)  # without a Python object for every key of files of 200 MB
    except (ValidationError, ValueError) as error:
        raise DataError(f"{path}: {summarize_error(error)}") from error


class Question(BaseModel):
    """One question about one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    image: str = Field(min_length=1)
    """Path below the folder of the task's images."""
    question: str
    """What takes the place of `{question}` in the prompt: for box tasks the phrase. Asked even if it is empty."""
    answers: tuple[str, ...] = Field(min_length=1)
    """References, as the task's rule takes them; a box is written as `metrics.render_box` does."""
    kind: str = ""
    """Scores are also given for each kind."""


Metrics = Callable[[Sequence[Question], Sequence[str]], dict[str, float]]
"""What a task reports besides accuracies, from its questions and the answers to them, at least one."""


def compute_no_metrics(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:  # noqa: ARG001 - a form
    """For a task whose accuracies say it all."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTask:
    """A vision task with its questions."""

    name: str
    folder: Path
    """Holds the images."""
    metric: str
    """A name of `rules.RULES`."""
    prompt: str
    """Holds `{question}`."""
    chance: float
    chance_by_kind: Mapping[str, float]
    questions: tuple[Question, ...]
    mean_of_kinds: bool = False
    """The score is the mean of the kinds' accuracies, and not that of all questions."""
    extra_metrics: Metrics = compute_no_metrics
    rule: Callable[[str, Sequence[str]], float] | None = None
    """Scores an answer against the right ones; None: the rule that belongs to `metric`."""

    def format_prompt(self, question: Question) -> str:
        return self.prompt.replace("{question}", question.question)

    def resolve_image(self, question: Question) -> Path:
        """DataError if the image lies outside the images' folder or is not there."""
        return resolve_task_file(self.folder, question.image, f"task {self.name!r}, question {question.id!r}")


# Whether a benchmark's images are there, before hours are spent on the others.


# Why: docs/decisions.md, D48
def check_images(where: Path, folder: Path, questions: Sequence[Question]) -> None:
    """DataError with the number of images that are missing below `folder` and the first of them.

    Each folder is listed once: asking for 40,504 files one by one takes minutes on a network file system.
    """
    listed: dict[PurePath, set[str]] = {}
    missing: list[str] = []
    names = dict.fromkeys(question.image for question in questions)
    for name in names:
        path = PurePath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{where}: image {name!r} leads out of {folder}")
        if path.parent not in listed:
            listed[path.parent] = list_names(folder / path.parent)
        if path.name not in listed[path.parent]:
            missing.append(name)
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(names)} images are not in {folder}; the first is {missing[0]}"
        )


def list_names(folder: Path) -> set[str]:
    """Names in a folder; nothing if it is not there."""
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {os.strerror(error.errno or 0)}") from error


# A seeded part of a task's questions, chosen by seed and question id alone, whatever the order of the file.


# Why: docs/decisions.md, D47
def select_subset(questions: Sequence[Question], size: int, seed: int, *, by_kind: bool = False) -> list[Question]:
    """`size` of the questions, or of each kind, in their order; all of them where there are no more.

    A larger size holds every question of a smaller one with the same seed.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        groups[question.kind if by_kind else ""].append(question.id)
    chosen = {
        name for group in groups.values() for name in sorted(group, key=lambda name: compute_rank(name, seed))[:size]
    }
    return [question for question in questions if question.id in chosen]


def compute_rank(name: str, seed: int) -> bytes:
    """A question's place in the seed's random order."""
    return sha256(f"{seed}:{name}".encode()).digest()
