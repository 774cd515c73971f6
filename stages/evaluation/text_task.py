"""Reading a text task: an lm-eval task file NAME.yaml with its data beside it, and nothing in it that could run code.

Of lm-eval's task language this takes what a plain benchmark needs: local JSON lines, templates without calls, and the
metrics named below. Everything else is refused, because a task file is data and lm-eval would execute parts of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stages.config import Name, Share, Task
from stages.errors import DataError
from stages.evaluation.templates import check_template
from stages.evaluation.vision_task import inside, read_text
from stages.job_file import one_line

Metric = Literal["acc", "acc_norm", "bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity"]
LOSSES = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _MetricEntry(_Part):
    metric: Metric
    aggregation: Literal["mean", "bits_per_byte", "weighted_perplexity", "perplexity"] | None = None
    higher_is_better: bool | None = None


class _DataFiles(_Part):
    data_files: str | dict[str, str]


class _Metadata(_Part):
    version: float = 0
    chance: Share | None = None


class _TaskFile(_Part):
    """The keys of an lm-eval task file that are taken; `metadata.chance` is ours."""

    task: Name
    dataset_path: Literal["json"]
    dataset_kwargs: _DataFiles
    test_split: str = ""
    validation_split: str = ""
    output_type: Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling"]
    doc_to_text: str
    doc_to_choice: str | tuple[str, ...] = ""
    doc_to_target: str | int
    target_delimiter: str = " "
    description: str = ""
    metric_list: tuple[_MetricEntry, ...] = Field(min_length=1)
    metadata: _Metadata = _Metadata()

    @field_validator("doc_to_text", "doc_to_choice", "doc_to_target", "description")
    @classmethod
    def _runs_no_code(cls, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                check_template(text)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTask:
    """A checked task: lm-eval's settings without the data, and the data."""

    name: str
    settings: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    metric: str
    """The first metric: the task's score."""
    chance: float | None

    @property
    def is_loss(self) -> bool:
        return self.metric in LOSSES


def read_text_task(folder: Path, task: Task) -> TextTask:
    """The task NAME.yaml of `folder`, its first `limit` rows; DataError names file, line and what is wrong."""
    path = folder / f"{task.name}.yaml"
    about = _task_file(path)
    split = about.test_split or about.validation_split
    if not split:
        raise DataError(f"{path}: test_split or validation_split must name the split to score")
    files = about.dataset_kwargs.data_files
    if isinstance(files, dict) and split not in files:
        raise DataError(f"{path}: data_files has no {split!r}; it has {', '.join(files) or 'nothing'}")
    source = inside(folder, files[split] if isinstance(files, dict) else files, str(path))
    rows = tuple(_rows(source))[: task.limit]
    if not rows:
        raise DataError(f"{source}: no rows in it")
    settings = about.model_dump(
        exclude={"dataset_path", "dataset_kwargs", "test_split", "validation_split", "metadata"}
    )
    settings["metric_list"] = [entry.model_dump(exclude_none=True) for entry in about.metric_list]
    if isinstance(about.doc_to_choice, tuple):
        settings["doc_to_choice"] = list(about.doc_to_choice)
    return TextTask(
        name=task.name,
        settings={name: value for name, value in settings.items() if value != "" or name == "doc_to_text"},
        rows=rows,
        metric=about.metric_list[0].metric,
        chance=about.metadata.chance,
    )


def _task_file(path: Path) -> _TaskFile:
    try:
        return _TaskFile.model_validate(yaml.safe_load(read_text(path)))
    except (yaml.YAMLError, ValidationError, RecursionError) as error:
        raise DataError(f"{path}: {one_line(error)}") from error


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    """JSON objects, all with the keys of the first: lm-eval holds them as a table."""
    keys: set[str] = set()
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}, line {number}: {one_line(error)}") from error
        keys = keys or (set(row) if isinstance(row, dict) else set())
        if not isinstance(row, dict) or set(row) != keys:
            wanted = ", ".join(sorted(keys)) or "at least one key"
            raise DataError(f"{source}, line {number}: an object with {wanted} is expected")
        yield row
