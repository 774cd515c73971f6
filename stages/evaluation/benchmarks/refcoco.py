"""RefCOCO, RefCOCO+ and RefCOCOg: the published folders, whose refs are kept as JSON; images of COCO's train2014.

The publishers' `refs(unc).p` is a pickle, which could run anything when it is loaded: it is converted to JSON once,
by its owner (docs/add-a-task.md). `instances.json` is read as it is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel

from stages.errors import DataError
from stages.evaluation.benchmarks.family import FIND_BOX, Family, PublishedModel
from stages.evaluation.metrics import render_box
from stages.evaluation.questions import Question, read_json, resolve_task_file

SPLIT_BY = {"RefCOCO": "unc", "RefCOCO+": "unc", "RefCOCOg": "umd"}
"""The three sets, as vlm-evaluation splits them."""
SPLIT = "val"


class RefCOCOSentence(PublishedModel):
    """One way to refer to an object."""

    sent_id: int
    sent: str


class RefCOCORef(PublishedModel):
    """An object that is referred to."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: tuple[RefCOCOSentence, ...]


class RefCOCORefsFile(RootModel[tuple[RefCOCORef, ...]]):
    """The list that the published pickle holds."""


class COCOImage(PublishedModel):
    """Size in pixels."""

    id: int
    width: int
    height: int


class COCOAnnotation(PublishedModel):
    """The box of an object."""

    id: int
    bbox: Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]
    """x, y, width, height in pixels."""


class COCOInstancesFile(PublishedModel):
    """COCO's images and boxes."""

    images: tuple[COCOImage, ...]
    annotations: tuple[COCOAnnotation, ...]


def read_questions(files: Mapping[str, Path]) -> Iterator[Question]:
    """The validation split of each set that is given."""
    for name, folder in files.items():
        yield from read_refcoco_set(name, folder)


def read_refcoco_set(name: str, folder: Path) -> Iterator[Question]:
    """One set: a question for each sentence of each ref."""
    refs = resolve_task_file(folder, f"refs({SPLIT_BY[name]}).json", f"{name} in {folder}")
    instances = resolve_task_file(folder, "instances.json", f"{name} in {folder}")
    content = read_json(COCOInstancesFile, instances)
    sizes = {image.id: image for image in content.images}
    boxes = {annotation.id: annotation.bbox for annotation in content.annotations}
    for ref in read_json(RefCOCORefsFile, refs).root:
        if ref.split != SPLIT:
            continue
        if ref.ann_id not in boxes or ref.image_id not in sizes:
            raise DataError(
                f"{instances}: no annotation {ref.ann_id} or no image {ref.image_id}, of ref_id {ref.ref_id}"
            )
        x, y, width, height = boxes[ref.ann_id]
        image = sizes[ref.image_id]
        try:
            box = render_box((x, y, x + width, y + height), image.width, image.height)
        except ValueError as error:
            raise DataError(f"{instances}: annotation {ref.ann_id}: {error}") from error
        for sentence in ref.sentences:
            yield Question(
                id=f"{name}-{ref.ref_id}-{sentence.sent_id}",
                image=f"COCO_train2014_{ref.image_id:012d}.jpg",
                question=sentence.sent,
                answers=(box,),
                kind=name,
            )


FAMILY = Family(
    name="refcoco",
    any_of=tuple(SPLIT_BY),
    read=read_questions,
    metric="box_accuracy_50",
    prompt=FIND_BOX,
    chance=0.0,
    by_kind=True,
)
