"""TextVQA: TextVQA_0.5.1_val.json of textvqa.org, asked without OCR tokens in the prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from stages.evaluation.benchmarks.family import Family, PublishedModel, Text
from stages.evaluation.questions import Question, read_json


class TextVQAEntry(PublishedModel):
    """A question with its ten answers."""

    question_id: int
    image_id: Text
    question: str
    answers: tuple[str, ...] = Field(min_length=10, max_length=10)
    """M4C's accuracy is defined for ten."""


class TextVQAFile(PublishedModel):
    """The questions stand under `data`."""

    data: tuple[TextVQAEntry, ...]


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file."""
    for entry in read_json(TextVQAFile, files["questions"]).data:
        yield Question(
            id=str(entry.question_id), image=f"{entry.image_id}.jpg", question=entry.question, answers=entry.answers
        )


FAMILY = Family(name="textvqa", files=("questions",), read=read_questions, metric="textvqa_accuracy", chance=0.0)
