"""Reading the files of tasks: errors name file and key, and paths stay where they belong."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from stages.errors import DataError
from stages.job_file import one_line


def read_text(path: Path) -> str:
    """A file's text; DataError if it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from error


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`; DataError if that leaves the folder or is no file."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name!r} leads out of {folder}; files of a task lie below its folder")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}")
    return path


def below(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`, a file or folder that the task file names; unlike `inside` a link may lead elsewhere.

    Downloads of many gigabytes lie where there is room; the link is made by the owner of the tasks' folder, while
    what `inside` guards against comes with the questions.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {name!r} leads out of {folder}; name a path below it, which may be a link")
    if not (folder / path).exists():
        raise DataError(f"{where}: there is no {folder / path}")
    return (folder / path).resolve()


Parsed = TypeVar("Parsed", bound=BaseModel)


def parsed(kind: type[Parsed], text: str, where: str) -> Parsed:
    """JSON text as a `kind`; DataError names `where` and the first key that is wrong."""
    try:
        return kind.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: {one_line(error)}") from error


def read_json(kind: type[Parsed], path: Path) -> Parsed:
    """A JSON file as a `kind`; DataError names the file and what is wrong."""
    text = read_text(path)
    try:
        return kind.model_validate_json(text)  # without a Python object for every key of files of 200 MB
    except (ValidationError, ValueError) as error:
        raise DataError(f"{path}: {one_line(error)}") from error
