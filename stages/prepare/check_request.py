"""What is to be checked, and by which of a job's settings."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.data.conversations import conversation_file
from stages.data.tar_index import index_tar
from stages.errors import ConfigError, DataError


class CheckRequest(BaseModel):
    """One data set. What is empty or 0 is unknown, and what depends on it is not looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    kind: str = ""
    """Of a sweep file's `data`; empty: guessed from the files."""
    field: str = ""
    context: int = 0
    vocabulary: int = 0
    tokenizer: str = ""
    encoder: str = ""
    transform: str = "resize-naive"

    @property
    def is_remote(self) -> bool:
        return "://" in self.path


def read_requests(text: str) -> list[CheckRequest]:
    """The requests of a JSON list; ConfigError if it is none."""
    try:
        return [CheckRequest.model_validate(each) for each in json.loads(text)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of requests: {error}") from error


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a data set, to be checked by itself."""

    request: CheckRequest
    path: Path
    expected: int | None
    """Samples by the manifest; None where there is none."""
    decode: str
    """Of its images: `all`, `sample`, `none`."""


def guessed_kind(path: Path) -> str:
    """The kind of a data set by its files; DataError if it could be anything."""
    tars = sorted(path.glob("*.tar")) if path.is_dir() else [path] if path.suffix == ".tar" else []
    for tar in tars:
        try:
            index = index_tar(tar)
        except DataError:
            continue  # a torn one tells nothing; the check itself will name it
        if len(index):
            extensions = index.extensions(0)
            is_text = any(name in {"json.gz", "json", "txt"} for name in extensions) and len(extensions) == 1
            return "text" if is_text else "captions"
    if not tars:
        conversation_file(path)  # DataError unless there is just one JSON file
        return "conversations"
    raise DataError(f"{path}: no whole tar tells what it holds; say it with --kind")
