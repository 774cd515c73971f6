"""VizWiz: val.json of vizwiz.org, whose questions have no numbers: a question is known by its image."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, RootModel

from stages.evaluation.benchmarks.family import Family, Published, Text
from stages.evaluation.metrics import says_unanswerable, share
from stages.evaluation.questions import Question, read_json

UNANSWERABLE = "unanswerable"
PROMPT = (
    "{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase."
)


class Answer(Published):
    """Of one person."""

    answer: str


class Entry(Published):
    """A question with its answers."""

    image: Text
    question: str
    answers: tuple[Answer, ...] = Field(min_length=1)
    answerable: Literal[0, 1]


class EntriesFile(RootModel[tuple[Entry, ...]]):
    """The file is one list."""


def read(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file."""
    for entry in read_json(EntriesFile, files["questions"]).root:
        yield Question(
            id=entry.image,
            image=entry.image,
            question=entry.question,
            answers=tuple(answer.answer for answer in entry.answers),
            kind="answerable" if entry.answerable else UNANSWERABLE,
        )


def unanswerability(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """How well the answer "unanswerable" marks the questions that are: average precision and F1, 0 to 1.

    The mark is yes or no, so the precision-recall curve has two points: those marked, and then everything.
    """
    marked = [says_unanswerable(answer) for answer in answers]
    true = [question.kind == UNANSWERABLE for question in questions]
    hits = sum(given and wanted for given, wanted in zip(marked, true, strict=True))
    precision, recall = share(hits, sum(marked)), share(hits, sum(true))
    return {
        "unanswerable_average_precision": recall * precision + (1 - recall) * sum(true) / len(true)
        if any(true)
        else 0.0,
        "unanswerable_f1": share(2 * hits, sum(marked) + sum(true)),
    }


FAMILY = Family(
    name="vizwiz",
    files=("questions",),
    read=read,
    metric="vizwiz_accuracy",
    prompt=PROMPT,
    chance=0.0,
    more=unanswerability,
)
