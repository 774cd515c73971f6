"""VizWiz: val.json of vizwiz.org, whose questions have no numbers: a question is known by its image."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, RootModel

from stages.evaluation.benchmarks.family import Family, PublishedModel, Text
from stages.evaluation.metrics import compute_ratio, is_unanswerable
from stages.evaluation.questions import Question, read_json

UNANSWERABLE = "unanswerable"
PROMPT = (
    "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


class VizWizAnswer(PublishedModel):
    """Of one person."""

    answer: str


class VizWizEntry(PublishedModel):
    """A question with its answers."""

    image: Text
    question: str
    answers: tuple[VizWizAnswer, ...] = Field(min_length=1)
    answerable: Literal[0, 1]


class VizWizFile(RootModel[tuple[VizWizEntry, ...]]):
    """The file is one list."""


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file."""
    for entry in read_json(VizWizFile, files["questions"]).root:
        yield Question(
            id=entry.image,
            image=entry.image,
            question=entry.question,
            answers=tuple(answer.answer for answer in entry.answers),
            kind="answerable" if entry.answerable else UNANSWERABLE,
        )


def compute_unanswerability(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """How well the answer "unanswerable" marks the questions that are: average precision and F1, 0 to 1.

    The mark is yes or no, so the precision-recall curve has two points: those marked, and then everything.
    """
    marked = [is_unanswerable(answer) for answer in answers]
    true = [question.kind == UNANSWERABLE for question in questions]
    hits = sum(given and wanted for given, wanted in zip(marked, true, strict=True))
    precision, recall = compute_ratio(hits, sum(marked)), compute_ratio(hits, sum(true))
    return {
        "unanswerable_average_precision": recall * precision + (1 - recall) * sum(true) / len(true)
        if any(true)
        else 0.0,
        "unanswerable_f1": compute_ratio(2 * hits, sum(marked) + sum(true)),
    }


FAMILY = Family(
    name="vizwiz",
    files=("questions",),
    read=read_questions,
    metric="vizwiz_accuracy",
    prompt=PROMPT,
    chance=0.0,
    extra_metrics=compute_unanswerability,
)
