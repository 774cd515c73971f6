"""VQAv2: the questions and annotations JSON of visualqa.org, images of COCO's val2014."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from stages.errors import DataError
from stages.evaluation.benchmarks.family import Family, PublishedModel
from stages.evaluation.questions import Question, read_json


class VQAv2Question(PublishedModel):
    """A question."""

    question_id: int
    image_id: int
    question: str


class VQAv2QuestionsFile(PublishedModel):
    """`v2_OpenEnded_mscoco_val2014_questions.json`."""

    data_subtype: str = "val2014"
    """The part of COCO that the images are from; it stands in their names."""
    questions: tuple[VQAv2Question, ...]


def extract_answer(answer: object) -> object:
    """Of one person's answer. Not a model of its own: there are two million, and models would take seconds more."""
    if not isinstance(answer, dict) or "answer" not in answer:
        raise ValueError("an object with answer is expected")
    return answer["answer"]


class VQAv2Annotation(PublishedModel):
    """The answers to a question, usually ten."""

    question_id: int
    answer_type: str = ""
    """yes/no, number or other."""
    answers: tuple[Annotated[str, BeforeValidator(extract_answer)], ...] = Field(min_length=1)


class VQAv2AnnotationsFile(PublishedModel):
    """`v2_mscoco_val2014_annotations.json`."""

    annotations: tuple[VQAv2Annotation, ...]


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the questions file; each question needs its annotation, and each annotation its question."""
    asked = read_json(VQAv2QuestionsFile, files["questions"])
    annotations = {
        found.question_id: found for found in read_json(VQAv2AnnotationsFile, files["annotations"]).annotations
    }
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


FAMILY = Family(
    name="vqav2", files=("questions", "annotations"), read=read_questions, metric="vqa_accuracy", chance=0.25
)
