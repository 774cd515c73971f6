"""Reading a text task: an lm-eval task file NAME.yaml with its data beside it, and nothing in it that could run code.

Of lm-eval's task language this takes what a plain benchmark needs: local JSON lines, templates that put fields together
(`stages.evaluation.text_task`), and the metrics and filters named below. Keys about training data and few-shot examples
are read and left out: tasks are zero-shot. Everything else is refused, because a task file is data and lm-eval would
execute parts of it.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from pydantic import BaseModel, ConfigDict, Field, field_validator

from stages.config import Name, Share, Task
from stages.errors import DataError
from stages.evaluation.questions import read_text, resolve_task_file
from stages.job_file import summarize_error

# What two benchmarks do to their published rows before a template sees them: code of ours, which a task file names.
#
# The rules are lm-eval's, so that its numbers come out; their regular expressions are beyond templates.

Prepare = Callable[[Mapping[str, Any]], dict[str, Any]]


def prepare_hellaswag(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of Rowan/hellaswag: `query`, `choices` and `gold`, without the marks in brackets that WikiHow left.

    `source_id`, the video or article that a row is cut from, is kept where the row has it.
    """
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {
        **{name: row[name] for name in ("source_id",) if name in row},
        "query": remove_marks(context),
        "choices": [remove_marks(ending) for ending in row["endings"]],
        "gold": int(row["label"]),
    }


def remove_marks(text: str) -> str:
    """A title's mark ends a sentence; other marks go, and each pair of spaces becomes one."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


CHOICE = re.compile(r"[a-d] \) (?P<choice>.*?), |e \) (?P<last>.*?)$")
"""One of the five in `a ) 38 , b ) 27 , c ) 30 , d ) 31 , e ) none of these`; all but the last end at a comma."""


def prepare_mathqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of regisss/math_qa: `choices` from the one text `options`."""
    found = CHOICE.finditer(row["options"])
    return {**row, "choices": [(match["choice"] or match["last"] or "").rstrip(" ,") for match in found]}


PREPARATIONS: dict[str, Prepare] = {"hellaswag": prepare_hellaswag, "mathqa": prepare_mathqa}
"""By the name that `metadata.prepare` of a task file gives."""


# Which Jinja templates a task file may hold: fields of a row, compared, cut, joined. lm-eval renders them
# unsandboxed.
#
# Nothing that could reach Python's objects is allowed (names that begin with an underscore, calls but for METHODS),
# and nothing that could take long or fill the memory (loops, products, powers, replacements).

PLAIN = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Concat, nodes.Add),
    *(nodes.List, nodes.Compare, nodes.Operand, nodes.CondExpr, nodes.And, nodes.Or, nodes.Not),
)
FILTERS = frozenset(("trim", "lower", "upper", "capitalize", "join", "length", "first", "last"))
METHODS = frozenset(
    ("index", "strip", "lstrip", "rstrip", "lower", "upper", "capitalize", "split", "startswith", "endswith")
)
"""Of texts and lists: each gives back no more than it was given."""


# Why: docs/decisions.md, D45
def check_template(text: str) -> None:
    """ValueError for a template that does more than put fields together."""
    try:
        tree = Environment().parse(text)  # noqa: S701  # parsed, never rendered
    except TemplateSyntaxError as error:
        raise ValueError(f"template {text[:60]!r}: {error.message}") from error
    for node in (tree, *tree.find_all(nodes.Node)):
        if not _is_plain(node):
            raise ValueError(f"template {text[:60]!r}: {type(node).__name__} is not allowed: fields, +, ~, trim are")


def _is_plain(node: nodes.Node) -> bool:
    check = RULES.get(type(node))
    return check(node) if check is not None else isinstance(node, PLAIN)


def _is_known_call(node: Any) -> bool:
    plain = isinstance(node.node, nodes.Getattr) and node.node.attr in METHODS
    return plain and not (node.kwargs or node.dyn_args or node.dyn_kwargs)


def _is_field(node: Any) -> bool:
    name = isinstance(node.arg, nodes.Const) and not str(node.arg.value).startswith("_")
    return name or _is_number(node.arg) or isinstance(node.arg, nodes.Slice)


def _is_number(node: nodes.Node | None) -> bool:
    node = node.node if isinstance(node, nodes.Neg) else node
    return isinstance(node, nodes.Const) and isinstance(node.value, int)


RULES: dict[type[nodes.Node], Callable[[Any], bool]] = {
    nodes.Filter: lambda node: node.name in FILTERS,
    nodes.Getattr: lambda node: not node.attr.startswith("_"),
    nodes.Getitem: _is_field,
    nodes.Slice: lambda node: all(part is None or _is_number(part) for part in (node.start, node.stop, node.step)),
    nodes.Neg: _is_number,
    nodes.Call: _is_known_call,
}
"""What is allowed of the nodes that are not PLAIN."""


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
    until: tuple[str, ...] | str | None = None  # lm-eval's own default where the task is silent
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
    def _check_one_answer(cls, value: tuple[_Filter, ...]) -> tuple[_Filter, ...]:
        if value[-1].function != "take_first":
            raise ValueError("the last filter must be take_first, which makes one answer of the list of answers")
        return value


class _DataFiles(_Part):
    data_files: str | dict[str, str]


class _Metadata(_Part):
    version: float = 0
    chance: Share | None = None
    prepare: Literal["", "hellaswag", "mathqa"] = ""
    cluster: str = ""
    """A template of what a row is about; rows for which it gives the same are taken as dependent."""

    @field_validator("cluster")
    @classmethod
    def _check_no_code(cls, value: str) -> str:
        check_template(value)
        return value


class _TextTaskFile(_Part):
    """The keys of an lm-eval task file that are taken; `metadata.chance`, `.prepare` and `.cluster` are ours."""

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
    def _check_no_code(cls, value: Any) -> Any:
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
    clusters: tuple[str, ...] = ()
    """For each row what it is about (a passage), as a digest; empty for a row that stands alone."""

    @property
    def is_loss(self) -> bool:
        return self.metric in LOSSES


def read_text_task(folder: Path, task: Task) -> TextTask:
    """The task NAME.yaml of `folder`, its first `limit` rows; DataError names file, line and what is wrong."""
    path = folder / f"{task.name}.yaml"
    about = _read_task_file(path)
    split = about.test_split or about.validation_split
    if not split:
        raise DataError(f"{path}: test_split or validation_split must name the split to score")
    files = about.dataset_kwargs.data_files
    if isinstance(files, dict) and split not in files:
        raise DataError(f"{path}: data_files has no {split!r}; it has {', '.join(files) or 'nothing'}")
    source = resolve_task_file(folder, files[split] if isinstance(files, dict) else files, str(path))
    rows = tuple(_prepare_rows(_read_rows(source), about.metadata.prepare, source))[: task.limit]
    if not rows:
        raise DataError(f"{source}: no rows in it")
    if isinstance(about.doc_to_choice, str) and about.doc_to_choice in rows[0]:
        for number, row in enumerate(rows, start=1):
            check_choices(row[about.doc_to_choice], f"{source}, row {number}: {about.doc_to_choice!r}")
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
        clusters=tuple(_iter_clusters(rows, about.metadata.cluster, path)),
    )


def check_choices(choices: Any, where: str) -> None:
    """DataError, naming `where`, unless there are two texts or more to choose from."""
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(each, str) and each for each in choices):
        raise DataError(f"{where} gives {summarize_value(choices)}, and a list of two texts or more is expected")


def summarize_value(value: Any) -> str:
    """A JSON value for a message, however long it is."""
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def name_cluster(text: Any) -> str:
    """A digest of what several documents may be about, such as a passage; "" for an empty text or none."""
    return sha256(text.encode()).hexdigest()[:16] if isinstance(text, str) and text.strip() else ""


def _iter_clusters(rows: Sequence[Mapping[str, Any]], template: str, path: Path) -> Iterator[str]:
    """`name_cluster` of what the template gives for each row; without a template of its field `passage`."""
    rendered = Environment().from_string(template) if template else None  # noqa: S701  # checked, and no HTML
    for number, row in enumerate(rows, start=1):
        try:
            yield name_cluster(row.get("passage") if rendered is None else rendered.render(**row))
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"{path}: metadata.cluster, row {number}: {summarize_error(error)}") from error


def _read_task_file(path: Path) -> _TextTaskFile:
    try:
        content = yaml.safe_load(read_text(path))
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if name not in LEFT_OUT and value is not None}
        return _TextTaskFile.model_validate(content)
    except yaml.constructor.ConstructorError as error:  # a tag that names code, or a key that is no plain word
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: holds more than plain values: {summarize_error(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number or a date that is none
        raise DataError(f"{path}: {summarize_error(error)}") from error


def _prepare_rows(rows: Iterator[dict[str, Any]], name: str, source: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        try:
            yield PREPARATIONS[name](row) if name else row
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{source}, row {number}: not a row of {name}: {type(error).__name__}: {error}") from error


def _read_rows(source: Path) -> Iterator[dict[str, Any]]:
    """JSON objects, all with the keys of the first: lm-eval holds them as a table."""
    keys: set[str] = set()
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}, line {number}: {summarize_error(error)}") from error
        keys = keys or (set(row) if isinstance(row, dict) else set())
        if not isinstance(row, dict) or set(row) != keys:
            wanted = ", ".join(sorted(keys)) or "at least one key"
            raise DataError(f"{source}, line {number}: an object with {wanted} is expected")
        for key, value in row.items():
            if problem := find_unusable_value(value):
                raise DataError(f"{source}, line {number}: {key[:80]!r} holds {problem}")
        yield row


LARGEST_INTEGER = (1 << 63) - 1


def find_unusable_value(value: Any) -> str:
    """What in a JSON value lm-eval's table or a tokenizer cannot hold, and what would do; empty if there is nothing."""
    match value:
        case int() if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            return "an integer beyond 64 bits; write it as text"
        case float() if not math.isfinite(value):
            return "a number that is not finite; leave it out"
        case str() if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return "half a character (a lone surrogate); write the whole one"
        case list():
            return next(filter(None, map(find_unusable_value, value)), "")
        case dict():
            return next(filter(None, map(find_unusable_value, [*value, *value.values()])), "")
    return ""


# The requests of a row, for whoever counts them before lm-eval is there.

RENDERER = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - texts of a model, no page


def render_requests(settings: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The text of each request that lm-eval makes of a row: context and, where one is compared, the answer.

    `settings` and `row` are a `TextTask`'s. DataError for a row that does not fit them.
    """
    try:
        context = settings.get("description", "") + render_field(settings["doc_to_text"], row)
        kind = settings["output_type"]
        if kind == "generate_until":
            return [context]
        if kind != "multiple_choice":
            target = render_field(settings["doc_to_target"], row)
            return [target] if kind == "loglikelihood_rolling" else [context + target]
        delimiter = settings.get("target_delimiter", " ")
        return [f"{context}{delimiter}{choice}" for choice in list_choices(settings["doc_to_choice"], row)]
    except (KeyError, TypeError, ValueError, SyntaxError, TemplateError) as error:
        raise DataError(f"task {settings.get('task')!r}: {type(error).__name__}: {summarize_error(error)}") from error


def render_field(template: Any, row: Mapping[str, Any]) -> str:
    """A template filled with a row; the name of a column stands for its value."""
    if isinstance(template, str) and template not in row:
        return RENDERER.from_string(template).render(**row)
    return str(row[template] if isinstance(template, str) else template)


def list_choices(given: Any, row: Mapping[str, Any]) -> list[str]:
    """The answers that a row offers: a list, a column, or a template that renders to a list."""
    if not isinstance(given, str):
        return list(given)
    found = row[given] if given in row else ast.literal_eval(render_field(given, row))
    return list(found)
