"""GQA: a questions JSON such as testdev_balanced_questions.json, with GQA's images."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import RootModel

from stages.evaluation.benchmarks.family import Family, PublishedModel, Text
from stages.evaluation.questions import Question, read_json


class GQATypes(PublishedModel):
    """Kinds of the question."""

    structural: str = ""
    """verify, query, choose, logical or compare."""


class GQAEntry(PublishedModel):
    """A question with its answer."""

    imageId: Text  # noqa: N815 - the published name
    question: str
    answer: str
    types: GQATypes = GQATypes()


class GQAFile(RootModel[dict[Text, GQAEntry]]):
    """By question id."""


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file."""
    for name, entry in read_json(GQAFile, files["questions"]).root.items():
        yield Question(
            id=name,
            image=f"{entry.imageId}.jpg",
            question=entry.question,
            answers=(entry.answer,),
            kind=entry.types.structural,
        )


FAMILY = Family(name="gqa", files=("questions",), read=read_questions, metric="gqa_accuracy", chance=0.25)
