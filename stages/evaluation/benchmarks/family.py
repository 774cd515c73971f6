"""What a family of vision tasks is: how its published files become questions, and how their answers are scored."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stages.evaluation.questions import Metrics, Question, compute_no_metrics

SHORT_ANSWER = "{question}\nAnswer the question using a single word or phrase."
"""vlm-evaluation's prompt of question tasks."""
FIND_BOX = 'Please provide the bounding box coordinate of the region this sentence describes: "{question}"'
"""vlm-evaluation's prompt of box tasks; the phrase in quotes, as there."""


Text = Annotated[str, Field(min_length=1)]


class PublishedModel(BaseModel):
    """An entry of a published file: the keys that we read; others are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One published benchmark."""

    name: str
    read: Callable[[Mapping[str, Path]], Iterable[Question]]
    """Questions from the files of the task file's keys. DataError names the file and the key that is wrong."""
    files: tuple[str, ...] = ()
    """Keys of the task file that name a published file or folder; all are needed."""
    any_of: tuple[str, ...] = ()
    """Likewise, at least one of these."""
    metric: str
    """A name of `rules.RULES`."""
    prompt: str = SHORT_ANSWER
    chance: float
    by_kind: bool = False
    """A subset of n takes n of each kind, and not n in all."""
    mean_of_kinds: bool = False
    """The score is the mean of the kinds' accuracies, and not that of all questions."""
    extra_metrics: Metrics = compute_no_metrics
    """What is reported besides."""
    rule: Callable[[str, Sequence[str]], float] | None = None
    """Of a package's family: answer and references in, 0 to 1 out, in the place of `metric`, which then names it."""
    version: int = 1
    """Of a package's family: raised when questions or scores change for unchanged files. It enters the keys of its
    evaluations."""
