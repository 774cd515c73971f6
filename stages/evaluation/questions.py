"""Questions about images, and the task that asks them: what the files of every format are read into."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from stages.evaluation.task_files import inside


class Question(BaseModel):
    """One question about one image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    image: str = Field(min_length=1)
    """Path below the folder of the task's images."""
    question: str
    """What takes the place of `{question}` in the prompt: for box tasks the phrase. Asked even if it is empty."""
    answers: tuple[str, ...] = Field(min_length=1)
    """References, as the task's rule takes them; a box is written as `boxes.box_text` does."""
    kind: str = ""
    """Scores are also given for each kind."""


Metrics = Callable[[Sequence[Question], Sequence[str]], dict[str, float]]
"""What a task reports besides accuracies, from its questions and the answers to them, at least one."""


def no_more_metrics(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:  # noqa: ARG001 - a form
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
    more: Metrics = no_more_metrics

    def prompt_of(self, question: Question) -> str:
        return self.prompt.replace("{question}", question.question)

    def image_path(self, question: Question) -> Path:
        """DataError if the image lies outside the images' folder or is not there."""
        return inside(self.folder, question.image, f"task {self.name!r}, question {question.id!r}")
