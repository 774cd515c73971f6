"""A family of tasks: how many things are in a picture, with partial credit."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import RootModel

from stages.evaluation.benchmarks.family import Family, PublishedModel, Text
from stages.evaluation.questions import Question, read_json


class TallyEntry(PublishedModel):
    """The keys that are read."""

    number: int
    picture: Text
    question: str
    count: int


class TallyFile(RootModel[tuple[TallyEntry, ...]]):
    """The file is one list."""


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file."""
    for entry in read_json(TallyFile, files["questions"]).root:
        yield Question(id=str(entry.number), image=entry.picture, question=entry.question, answers=(str(entry.count),))


def score_tally(given: str, references: Sequence[str]) -> float:
    """1 for the number itself, a quarter for any other number of one digit, 0 for what is none."""
    text = given.strip()
    return 1.0 if text in references else 0.25


FAMILY = Family(
    name="tally",
    files=("questions",),
    read=read_questions,
    metric="tally",
    rule=score_tally,
    prompt="{question}",
    chance=0.1,
    version=2,
)
