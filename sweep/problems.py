"""pydantic's errors as lines that a user can act on: FILE:LINE: where: what was given, what would do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sweep.spec.yaml_source import Path_, YamlSource, shown

COMPLAINTS = {
    "literal_error": "is not one of the choices",
    "string_pattern_mismatch": "is not a plain word (letters, digits and . _ + -, no spaces, no leading mark)",
    "too_short": "has no values; give at least one, or take it out",
    "list_type": "will not do: a list is wanted, [in brackets]",
    "dict_type": "will not do: a mapping is wanted, name: value",
    "model_type": "will not do: a mapping is wanted, name: value",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "string_type": "is not text",
}
"""pydantic's error types, as the end of a sentence that begins with the value given."""

OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}

MEANT = {
    "pretrain.seed": "the image-text run's seed is the axis `seed`",
    "pretrain.encoder": "the encoder is the axis `encoder`",
    "pretrain.peak_lr": "it follows from lr_at_branch and pretrain.restart_lr",
    "finetune.epochs": "the numbers of epochs are the list `epochs` of the whole file",
}
"""Keys that one may expect where they are not."""


def problems_of(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong in the file, which was validated as `model`."""
    lines = (problem_of(detail, source, model) for detail in error.errors(include_url=False))
    return list(dict.fromkeys(lines))  # an unknown axis is found at each of its values


def problem_of(detail: Mapping[str, Any], source: YamlSource, model: type[BaseModel]) -> str:
    """One line."""
    where = tuple(step for step in detail["loc"] if step != "[key]")  # pydantic's mark for a mapping's key
    unknown = detail["type"] == "extra_forbidden"
    return source.problem(place_in_file(where, source, unknown), message_of(detail, where, model))


def message_of(detail: Mapping[str, Any], where: Path_, model: type[BaseModel]) -> str:
    """What was given, what is wrong with it, what would do."""
    name, parent, kind = str(where[-1]) if where else "", model_at(model, where[:-1]), detail["type"]
    if kind == "extra_forbidden":
        meant = MEANT.get(".".join(map(str, where[-2:])))
        return (
            f"is unknown; {meant}" if meant else f"is unknown{suggestion(name, parent.model_fields if parent else ())}"
        )
    if kind == "missing":
        return "is missing" + described(parent, name)
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if detail["input"] is None:
        return "is empty; give it a value or take the line out" + described(parent, name)
    return f"{shown(detail['input'])} {complaint(detail)}{described(parent, name)}"


def complaint(detail: Mapping[str, Any]) -> str:
    """The end of a sentence that begins with the value."""
    kind, message = detail["type"], str(detail["msg"]).removeprefix("Input ")
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return "is a number where text is wanted; put it in quotes"
    if kind in OUT_OF_RANGE:
        return f"is out of range: it {message}"
    return COMPLAINTS.get(kind, f"will not do: {message}")


def place_in_file(where: Path_, source: YamlSource, unknown: bool) -> Path_:
    """Without the steps that only the schema has: a value of an axis is validated as a mapping in a list."""
    if where[:1] == ("blocks",) and where[2:3] == ("axes",):
        unknown_axis = unknown and where[5:] == where[3:4]
        where = where[:4] if unknown_axis else where[:5]
    elif where[:1] == ("exclude",):
        where = where[:4]
    # a single value of `exclude` has become a list of one
    return where[:-1] if where and isinstance(where[-1], int) and not source.has(where) else where


def described(model: type[BaseModel] | None, name: str) -> str:
    """What would do, from the field's description."""
    field = model.model_fields.get(name) if model else None
    return f"; {name} is {field.description}" if field is not None and field.description else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or the whole list where nothing comes near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def model_at(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model class that validates what lies at `where`; None where that is no model's business."""
    kind: Any = model
    for step in where:
        kind = kind_at(kind, step)
    return bare(kind) if is_model(bare(kind)) else None


def kind_at(kind: Any, step: str | int) -> Any:
    """The type of the part `step` of a value of type `kind`."""
    kind = bare(kind)
    if is_model(kind):
        field = kind.model_fields.get(step)
        return field.annotation if field else None
    return get_args(kind)[-1] if get_args(kind) else None  # list[X] and dict[str, X]


def bare(kind: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, ...]`."""
    while hasattr(kind, "__metadata__") or isinstance(kind, UnionType) or get_origin(kind) is Union:
        parts = [part for part in get_args(kind) if part is not type(None)]
        kind = parts[0]
    return kind


def is_model(kind: Any) -> bool:
    """Whether it is a pydantic class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)
