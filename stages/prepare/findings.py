"""What a check found in a data set: counts, and problems by kind, each with what a stage would do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

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
    """Images that were decoded to look whether they can be."""
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


def as_json(name: str, kind: str, path: str, findings: Findings) -> dict[str, Any]:
    """The report on one data set (docs/data.md)."""
    problems: list[Mapping[str, Any]] = [
        {"kind": kind, "action": str(problem.action), "count": problem.count, "examples": problem.examples}
        for kind, problem in findings.problems.items()
    ]
    counts = {name: getattr(findings, name) for name in ("shards", "samples", "tokens", "images", "decoded")}
    about = {"name": name, "kind": kind, "path": path, **counts, "shortest": findings.shortest}
    return {**about, "clean": findings.is_clean, "problems": problems}
