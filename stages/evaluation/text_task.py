"""Reading a text task: an lm-eval task file NAME.yaml with its data beside it, and nothing in it that could run code.

Of lm-eval's task language this takes what a plain benchmark needs: local JSON lines, templates that put fields together
(`stages.evaluation.templates`), and the metrics and filters named below. Keys about training data and few-shot examples
are read and left out: tasks are zero-shot. Everything else is refused, because a task file is data and lm-eval would
execute parts of it.
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
from stages.evaluation.row_preparation import PREPARATIONS
from stages.evaluation.task_files import inside, read_text
from stages.evaluation.templates import check_template
from stages.job_file import one_line

Metric = Literal[
    "acc", "acc_norm", "acc_bytes", "exact_match", "bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity"
]
LEFT_OUT = (
    *("tag", "group", "task_alias", "training_split", "fewshot_split", "fewshot_config", "fewshot_delimiter"),
    *("should_decontaminate", "doc_to_decontamination_query", "dataset_name"),
)
"""Keys of a task file that change nothing for zero-shot scores on local data."""
LOSSES = ("bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _MetricEntry(_Part):
    metric: Metric
    aggregation: Literal["mean", "bits_per_byte", "weighted_perplexity", "perplexity"] | None = None
    higher_is_better: bool | None = None
    ignore_case: bool | None = None
    ignore_punctuation: bool | None = None
    ignore_numbers: bool | None = None


class _Generation(_Part):
    until: tuple[str, ...] | str = ()
    max_gen_toks: int | None = Field(default=None, gt=0)
    do_sample: Literal[False] = False
    temperature: Literal[0] = 0


class _Filter(_Part):
    function: Literal["lowercase", "uppercase", "remove_whitespace", "take_first"]


class _Filters(_Part):
    name: Name
    filter: tuple[_Filter, ...] = Field(min_length=1)

    @field_validator("filter")
    @classmethod
    def _gives_one_answer(cls, value: tuple[_Filter, ...]) -> tuple[_Filter, ...]:
        if value[-1].function != "take_first":
            raise ValueError("the last filter must be take_first, which makes one answer of the list of answers")
        return value


class _DataFiles(_Part):
    data_files: str | dict[str, str]


class _Metadata(_Part):
    version: float = 0
    chance: Share | None = None
    prepare: Literal["", "hellaswag", "mathqa"] = ""


class _TaskFile(_Part):
    """The keys of an lm-eval task file that are taken; `metadata.chance` and `.prepare` (PREPARATIONS) are ours."""

    task: Name
    dataset_path: Literal["json"]
    dataset_kwargs: _DataFiles
    test_split: str = ""
    validation_split: str = ""
    output_type: Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]
    doc_to_text: str
    doc_to_choice: str | tuple[str, ...] = ""
    doc_to_target: str | int
    target_delimiter: str = " "
    description: str = ""
    metric_list: tuple[_MetricEntry, ...] = Field(min_length=1)
    generation_kwargs: _Generation | None = None
    filter_list: tuple[_Filters, ...] = Field(default=(), max_length=1)
    num_fewshot: Literal[0, None] = None
    repeats: Literal[1] = 1
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
    rows = tuple(_prepared(_rows(source), about.metadata.prepare, source))[: task.limit]
    if not rows:
        raise DataError(f"{source}: no rows in it")
    settings = about.model_dump(
        mode="json",
        exclude_none=True,
        exclude={"dataset_path", "dataset_kwargs", "test_split", "validation_split", "metadata", "num_fewshot"},
    )
    return TextTask(
        name=task.name,
        settings={name: value for name, value in settings.items() if value not in ("", []) or name == "doc_to_text"},
        rows=rows,
        metric=about.metric_list[0].metric,
        chance=about.metadata.chance,
    )


def _task_file(path: Path) -> _TaskFile:
    try:
        content = yaml.safe_load(read_text(path))
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if name not in LEFT_OUT and value is not None}
        return _TaskFile.model_validate(content)
    except yaml.constructor.ConstructorError as error:  # a tag that names code, or a key that is no plain word
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: holds more than plain values: {one_line(error)}") from error
    except (yaml.YAMLError, ValidationError, RecursionError) as error:
        raise DataError(f"{path}: {one_line(error)}") from error


def _prepared(rows: Iterator[dict[str, Any]], name: str, source: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        try:
            yield PREPARATIONS[name](row) if name else row
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{source}, row {number}: not a row of {name}: {type(error).__name__}: {error}") from error


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
