"""What is counted of a sweep's local data, and kept in the store, so that the next plan need not count it again.

`python -m stages.prepare count` counts, in a process of its own. A count is found again by what was asked and by the
files' sizes and times of change (or by the `dataset.json` or `manifest.jsonl` that describes them).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from jobs.errors import add_denial
from jobs.store.paths import Store
from jobs.store.reading import find_type_problem
from stages.config import Task
from sweep.cost.estimate import Lengths
from sweep.file_facts import check_presence, is_present, iter_address_facts
from sweep.kept_answers import KeptAnswers, UnansweredError, compute_question_digest, query_program

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same files give other counts."""
MISSING_PACKAGE = "the package "
"""How `stages.prepare.count` begins to say that a task's reader is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUse:
    """A local data set as one kind of job reads it: the request of `stages.prepare.count`."""

    kind: str
    path: str
    field: str = ""
    prompt: str = "pure"
    tokenizer: str = ""
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()

    @property
    def is_local(self) -> bool:
        return "://" not in self.path

    def build_request(self) -> dict[str, Any]:
        """As JSON types."""
        content = {name: getattr(self, name) for name in ("kind", "path", "field", "prompt", "tokenizer")}
        tasks = {
            name: [each.model_dump(exclude={"identity"}) for each in getattr(self, name)]
            for name in ("text_tasks", "vision_tasks")
        }
        return {**content, **tasks}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    """One evaluation task, as it was counted."""

    documents: int = 0
    requests: int = 0
    tokens: int = 0
    images: int = 0
    new_images: int = 0
    round_images: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCount:
    """A data set, as it was counted; 0 and empty: not known. What each field means: `stages.prepare.count.Counts`."""

    samples: int = 0
    images: int = 0
    without_image: int = 0
    tokens: int = 0
    measured: int = 0
    lengths: Lengths = ()
    by_characters: bool = False
    shards: int = 0
    opened_shards: int = 0
    manifest: bool = False
    tasks: Mapping[str, TaskCount] = field(default_factory=dict)
    problem: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "DataCount":
        """Raises KeyError, TypeError, ValueError or AttributeError for what is no count."""
        lengths = tuple(sorted((int(tokens), int(number)) for tokens, number in content["lengths"].items()))
        tasks = {name: TaskCount(**task) for name, task in content["tasks"].items()}
        values = {**content, "lengths": lengths, "tasks": tasks}
        problems = [find_type_problem(TaskCount, asdict(task)) for task in tasks.values()]
        if problem := next(filter(None, [find_type_problem(cls, values), *problems]), ""):
            raise ValueError(problem)
        return cls(**values)

    def convert_to_json(self) -> dict[str, Any]:
        """The reverse of `from_json`."""
        return {**asdict(self), "lengths": {str(tokens): number for tokens, number in self.lengths}}

    @property
    def mean_text_tokens(self) -> float:
        """Of the measured samples; 0 where none was."""
        return sum(tokens * number for tokens, number in self.lengths) / self.measured if self.measured else 0.0


class DataCounts:
    """Counts of one store. What it is asked for and does not have is `missing`, until it is counted."""

    def __init__(self, store: Store) -> None:
        self.kept = KeptAnswers(store.counts)
        self.missing: dict[DataUse, str] = {}
        """With the digest under which the count will be kept."""
        self._known: dict[DataUse, DataCount | None] = {}

    def find_count(self, use: DataUse) -> DataCount | None:
        """The count, if it is there; None for data that are elsewhere or absent, and for those that are `missing`."""
        if use not in self._known:
            self._known[use] = self._find_local_count(use) if use.is_local else None
        return self._known[use]

    def _find_local_count(self, use: DataUse) -> DataCount | None:
        try:
            return self._read_count(use) if check_presence(use.path) else None
        except OSError as error:  # data that may not be looked at are not absent
            return DataCount(problem=f"{use.path}: {add_denial(error.strerror or str(error), error)}")

    def _read_count(self, use: DataUse) -> DataCount | None:
        digest = compute_use_digest(use)
        try:
            return DataCount.from_json(self.kept.read_answer(digest))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.missing[use] = digest
            return None

    def count_missing(self) -> None:
        """Counts what is missing. What cannot be counted at all has a `problem`; the next plan tries it again."""
        if not self.missing:
            return
        uses = list(self.missing)
        for use, count in zip(uses, run_count(uses), strict=True):
            self._known[use] = count
            if is_lasting(use, count):
                self.kept.add_answer(self.missing[use], count.convert_to_json())
        self.missing.clear()

    def save(self) -> None:
        """Keeps the new counts in the store. OSError."""
        self.kept.save()

    @cached_property
    def problems(self) -> dict[str, str]:
        """Why data sets were not counted, by path; after `count_missing`."""
        return {use.path: count.problem for use, count in self._known.items() if count is not None and count.problem}


def run_count(uses: Iterable[DataUse]) -> list[DataCount]:
    """What the program counts of each; a `problem` for all of them where it does not run here."""
    requests = [use.build_request() for use in uses]
    try:
        return [DataCount.from_json(each) for each in query_program("count", "the program that counts", requests)]
    except UnansweredError as error:
        problem = str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"the program that counts gave no counts: {error}"
    logger.info("data are not counted: %s", problem)
    return [DataCount(problem=problem) for _ in requests]


def is_lasting(use: DataUse, count: DataCount) -> bool:
    """Whether the count holds as long as the files do: no package was missing that may be there the next time."""
    by_characters = count.by_characters and bool(use.tokenizer) and is_present(use.tokenizer)
    missing = any(task.problem.startswith(MISSING_PACKAGE) for task in count.tasks.values())
    return not (count.problem or by_characters or missing)


def compute_use_digest(use: DataUse) -> str:
    """Of the request and of what tells its files from others."""
    facts = chain.from_iterable(iter_address_facts(path) for path in (use.path, use.tokenizer) if path)
    return compute_question_digest([FORMAT, use.build_request()], facts)
