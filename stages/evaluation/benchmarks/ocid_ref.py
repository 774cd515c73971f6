"""OCID-Ref: val_expressions.json of its authors, with the images of OCID, all 640 x 480."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, Json, RootModel

from stages.errors import DataError
from stages.evaluation.benchmarks.family import FIND_BOX, Family, PublishedModel, Text
from stages.evaluation.metrics import render_box
from stages.evaluation.questions import Question, read_json

WIDTH, HEIGHT = 640, 480
LAST_TAKES = (9, 16, 20)
"""Objects are added to a table from take to take: free up to 9, touching up to 16, stacked up to 20."""
CLUTTER = ("minimum", "medium", "maximum")


class OCIDRefEntry(PublishedModel):
    """An expression and the box it is about."""

    scene_path: Text
    """The image, below OCID's folder."""
    bbox: Json[Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]]
    """x0, y0, x1, y1 in pixels; a string of JSON in the file."""
    sentence: str
    take_id: int = Field(ge=0, le=LAST_TAKES[-1])


class OCIDRefFile(RootModel[dict[Text, OCIDRefEntry]]):
    """By the expression's number."""


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """In the order of the file; a kind is how cluttered the table is."""
    for name, entry in read_json(OCIDRefFile, files["questions"]).root.items():
        try:
            box = render_box(entry.bbox, WIDTH, HEIGHT)
        except ValueError as error:
            raise DataError(f"{files['questions']}: {name}.bbox: {error}") from error
        yield Question(
            id=name,
            image=entry.scene_path,
            question=entry.sentence,
            answers=(box,),
            kind=CLUTTER[bisect_left(LAST_TAKES, entry.take_id)],
        )


FAMILY = Family(
    name="ocid_ref",
    files=("questions",),
    read=read_questions,
    metric="box_accuracy_25",
    prompt=FIND_BOX,
    chance=0.0,
    by_kind=True,
)
