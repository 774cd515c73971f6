"""What a check found in a data set: counts, and problems by kind, each with what a stage would do about it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.data.conversations import find_conversation_file
from stages.data.shards import index_tar, list_tars
from stages.errors import ConfigError, DataError

EXAMPLES = 3


class Action(StrEnum):
    """What a training job does when it meets a problem."""

    REFUSE = "refuse"
    """It ends with an error."""
    SKIP = "skip"
    """It counts the sample and leaves it out; beyond `bad_samples_limit` of a data set it ends."""
    NOTE = "note"
    """Nothing: the samples are used."""


@dataclass(slots=True)
class Problem:
    """All findings of one kind."""

    action: Action
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """`file: key: what`, the first of them."""


@dataclass(slots=True)
class Findings:
    """Of a shard, or of a whole data set: findings of parts are added up in their order."""

    shards: int = 0
    samples: int = 0
    tokens: int = 0
    """Of text shards; with a tokenizer also of captions and conversations."""
    images: int = 0
    decoded: int = 0
    """Images that were decoded as a check."""
    shortest: int | None = None
    """Tokens of the shortest sample of a text shard."""
    problems: dict[str, Problem] = field(default_factory=dict)

    def note(self, kind: str, action: Action, example: str) -> None:
        """Counts one problem."""
        problem = self.problems.setdefault(kind, Problem(action))
        problem.count += 1
        if len(problem.examples) < EXAMPLES:
            problem.examples.append(example)

    def add(self, other: "Findings") -> None:
        """Adds another part's."""
        for name in ("shards", "samples", "tokens", "images", "decoded"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        lengths = [each for each in (self.shortest, other.shortest) if each is not None]
        self.shortest = min(lengths, default=None)
        for kind, problem in other.problems.items():
            own = self.problems.setdefault(kind, Problem(problem.action))
            own.count += problem.count
            own.examples = [*own.examples, *problem.examples][:EXAMPLES]

    @property
    def is_clean(self) -> bool:
        """Whether a stage would use all of it."""
        return all(problem.action is Action.NOTE for problem in self.problems.values())


def render_report(name: str, kind: str, path: str, findings: Findings) -> dict[str, Any]:
    """The report on one data set (docs/data.md)."""
    problems: list[Mapping[str, Any]] = [
        {"kind": kind, "action": str(problem.action), "count": problem.count, "examples": problem.examples}
        for kind, problem in findings.problems.items()
    ]
    counts = {name: getattr(findings, name) for name in ("shards", "samples", "tokens", "images", "decoded")}
    about = {"name": name, "kind": kind, "path": path, **counts, "shortest": findings.shortest}
    return {**about, "clean": findings.is_clean, "problems": problems}


# What is to be checked, and by which of a job's settings.


class CheckRequest(BaseModel):
    """One data set. What is empty or 0 is unknown, and what depends on it is not checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    kind: str = ""
    """Of a sweep file's `data`; empty: guessed from the files."""
    field: str = ""
    context: int = 0
    vocabulary: int = 0
    tokenizer: str = ""
    encoder: str = ""
    transform: str = "resize-naive"

    @property
    def is_remote(self) -> bool:
        return "://" in self.path


def read_requests(text: str) -> list[CheckRequest]:
    """The requests of a JSON list; ConfigError if it is none."""
    try:
        return [CheckRequest.model_validate(each) for each in json.loads(text)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of requests: {error}") from error


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a data set, to be checked by itself."""

    request: CheckRequest
    path: Path
    expected: int | None
    """Samples by the manifest; None where there is none."""
    decode: str
    """Of its images: `all`, `sample`, `none`."""


def guess_kind(path: Path) -> str:
    """The kind of a data set by its files; DataError if it could be anything."""
    tars = list_tars(path) if path.is_dir() or path.suffix == ".tar" else []
    for tar in tars:
        try:
            index = index_tar(tar)
        except DataError:
            continue  # a torn one says nothing; the check itself will name it
        if len(index):
            return guess_sample_kind(index.list_extensions(0))
    if not tars:
        find_conversation_file(path)  # DataError unless there is just one JSON file
        return "conversations"
    raise DataError(f"{path}: no whole tar shows what it holds; say it with --kind")


def guess_sample_kind(extensions: Sequence[str]) -> str:
    """The kind of a data set by the members of a sample."""
    is_text = any(name in {"json.gz", "json", "txt"} for name in extensions) and len(extensions) == 1
    return "text" if is_text else "captions"
