"""Whether a benchmark's images are there, before hours are spent on the others."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from stages.errors import DataError
from stages.evaluation.questions import Question


def check_images(where: Path, folder: Path, questions: Sequence[Question]) -> None:
    """DataError with the number of images that are missing below `folder` and the first of them.

    Each folder is listed once: asking for 40,504 files one by one takes minutes on a network file system.
    """
    listed: dict[PurePath, set[str]] = {}
    missing: list[str] = []
    names = dict.fromkeys(question.image for question in questions)
    for name in names:
        path = PurePath(name)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{where}: image {name!r} leads out of {folder}")
        if path.parent not in listed:
            listed[path.parent] = content(folder / path.parent)
        if path.name not in listed[path.parent]:
            missing.append(name)
    if missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(names)} images are not in {folder}; the first is {missing[0]}"
        )


def content(folder: Path) -> set[str]:
    """Names in a folder; nothing if it is not there."""
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {os.strerror(error.errno or 0)}") from error
