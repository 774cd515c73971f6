"""Reading the task file of a published benchmark.

{"format": 1, "family": "vqav2", "questions": "v2_OpenEnded_mscoco_val2014_questions.json",
 "annotations": "v2_mscoco_val2014_annotations.json", "images": "val2014", "slim": 1024, "seed": 21}
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.config import Count, Share, Task
from stages.errors import DataError
from stages.evaluation.benchmarks.family import Family
from stages.evaluation.benchmarks.registry import FAMILIES
from stages.evaluation.images_there import check_images
from stages.evaluation.questions import Question, VisionTask
from stages.evaluation.subset import subset
from stages.evaluation.task_files import below
from stages.job_file import one_line

SEED = 21
"""vlm-evaluation's, though it chooses otherwise."""


class FamilyFile(BaseModel):
    """What every family's task file may say; its other keys name the published files."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, str]

    format: Literal[1]
    family: str
    images: str
    prompt: Annotated[str, Field(pattern=r"\{question\}")] | None = None
    chance: Share | None = None
    chance_by_kind: Mapping[str, Share] = {}
    slim: Count | None = None
    """How many questions, or of each kind where the family is scored by kind; None: all of them."""
    seed: int = SEED
    """Of the choice of `slim`."""


def read_family_task(folder: Path, path: Path, content: Mapping[str, Any], task: Task) -> VisionTask:
    """The task of `path`, a file of `folder` with that content. DataError names file, key and what is wrong.

    Every image has to be there: a benchmark of which a part is missing has another score.
    """
    try:
        about = FamilyFile.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {one_line(error)}") from error
    family = FAMILIES.get(about.family)
    if family is None:
        raise DataError(f"{path}: family {about.family!r} is unknown; families are {', '.join(FAMILIES)}")
    images = below(folder, about.images, f"{path}: images")
    questions = list(family.read(published_files(folder, path, about, family)))
    check_ids(path, questions)
    if about.slim is not None:
        questions = subset(questions, about.slim, about.seed, by_kind=family.by_kind)
    questions = questions[: task.limit]
    if not questions:
        raise DataError(f"{path}: no questions in the files of family {about.family}")
    check_images(path, images, questions)
    return VisionTask(
        name=task.name,
        folder=images,
        metric=family.metric,
        prompt=about.prompt or family.prompt,
        chance=family.chance if about.chance is None else about.chance,
        chance_by_kind=about.chance_by_kind,
        questions=tuple(questions),
        mean_of_kinds=family.mean_of_kinds,
        more=family.more,
    )


def published_files(folder: Path, path: Path, about: FamilyFile, family: Family) -> dict[str, Path]:
    """The published files by key, in the family's order; they may be links. DataError for a missing or unknown key."""
    given = about.__pydantic_extra__
    known = (*family.files, *family.any_of)
    if unknown := [key for key in given if key not in known]:
        raise DataError(f"{path}: {unknown[0]}: unknown; the files of family {family.name} are {', '.join(known)}")
    if missing := [key for key in family.files if key not in given]:
        raise DataError(f"{path}: {missing[0]}: missing; the files of family {family.name} are {', '.join(known)}")
    if not given:
        raise DataError(f"{path}: family {family.name} needs at least one of {', '.join(family.any_of)}")
    return {key: below(folder, given[key], f"{path}: {key}") for key in known if key in given}


def check_ids(path: Path, questions: Sequence[Question]) -> None:
    """DataError if a question is there twice: it would be scored twice, and a subset could not tell the two apart."""
    [(name, count)] = Counter(question.id for question in questions).most_common(1) or [("", 1)]
    if count > 1:
        raise DataError(f"{path}: question id {name!r} is there {count} times")
