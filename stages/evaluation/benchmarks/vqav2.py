"""VQAv2: the questions and annotations JSON of visualqa.org, images of COCO's val2014."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from stages.errors import DataError
from stages.evaluation.benchmarks.family import Family, Published
from stages.evaluation.questions import Question, read_json


class Asked(Published):
    """A question."""

    question_id: int
    image_id: int
    question: str


class QuestionsFile(Published):
    """`v2_OpenEnded_mscoco_val2014_questions.json`."""

    data_subtype: str = "val2014"
    """The part of COCO that the images are from; it stands in their names."""
    questions: tuple[Asked, ...]


def text_of(answer: object) -> object:
    """Of one person's answer. Not a model of its own: there are two million, and models would take seconds more."""
    if not isinstance(answer, dict) or "answer" not in answer:
        raise ValueError("an object with answer is expected")
    return answer["answer"]


class Annotation(Published):
    """The answers to a question, usually ten."""

    question_id: int
    answer_type: str = ""
    """yes/no, number or other."""
    answers: tuple[Annotated[str, BeforeValidator(text_of)], ...] = Field(min_length=1)


class AnnotationsFile(Published):
    """`v2_mscoco_val2014_annotations.json`."""

    annotations: tuple[Annotation, ...]


def read(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the questions file; each question needs its annotation, and each annotation its question."""
    asked = read_json(QuestionsFile, files["questions"])
    annotations = {found.question_id: found for found in read_json(AnnotationsFile, files["annotations"]).annotations}
    for question in asked.questions:
        annotation = annotations.pop(question.question_id, None)
        if annotation is None:
            raise DataError(f"{files['annotations']}: no annotation of question_id {question.question_id}")
        yield Question(
            id=str(question.question_id),
            image=f"COCO_{asked.data_subtype}_{question.image_id:012d}.jpg",
            question=question.question,
            answers=annotation.answers,
            kind=annotation.answer_type,
        )
    if annotations:
        raise DataError(
            f"{files['questions']}: no question of question_id {next(iter(annotations))}, which is annotated"
        )


FAMILY = Family(name="vqav2", files=("questions", "annotations"), read=read, metric="vqa_accuracy", chance=0.25)
