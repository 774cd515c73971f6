"""The data of a point's stages: text, captions, instructions and tokenizer, by their roles and shares. Pure."""

from collections.abc import Mapping
from typing import Any

from stages.config import Source, Tokenizer
from sweep.errors import ConfigProblemError
from sweep.spec.data import ROLES, DataSet

Values = Mapping[str, Any]


def mixture(values: Values, data: Mapping[str, DataSet]) -> tuple[Source, ...]:
    """Text, captions and instruction data by their shares; what has no share is left out."""
    images, instructed = values["image_share"], values["instruction_share"]
    shares = [
        ("captions", tidy(images * (1 - instructed))),
        ("instructions", tidy(images * instructed)),
    ]
    return (
        *(text_sources(values, data, tidy(1 - images)) if images < 1 else ()),
        *(source(values, data, role, share) for role, share in shares if share > 0),
    )


def tidy(share: float) -> float:
    """0.08 and not 0.08000000000000002: two ways to one share are one key."""
    return round(share, 12)


def text_sources(values: Values, data: Mapping[str, DataSet], share: float = 1.0) -> tuple[Source, ...]:
    """The text data sets, by name; together they have `share` of the mixture."""
    if not values["text"]:
        data_set(values, data, "text")  # says what is missing
    found = [(data[name], tidy(share * part)) for name, part in values["text"]]
    return tuple(
        Source(name=each.name, kind="text", revision=each.revision, share=part) for each, part in found if part > 0
    )


def source(values: Values, data: Mapping[str, DataSet], role: str, share: float = 1.0) -> Source:
    """The data set of a role as a part of the mixture."""
    found = data_set(values, data, role)
    return Source(
        name=found.name,
        kind="captions" if role == "captions" else "conversations",
        revision=found.revision,
        field="" if found.field == "txt" else found.field,  # one meaning, one key
        share=share,
    )


def tokenizer(values: Values, data: Mapping[str, DataSet]) -> Tokenizer:
    """The data set of kind tokenizer."""
    found = data_set(values, data, "tokenizer")
    return Tokenizer(name=found.name, revision=found.revision)


def data_set(values: Values, data: Mapping[str, DataSet], role: str) -> DataSet:
    """The data set that plays `role`; ConfigProblemError if the file names none."""
    name = values[role]
    if name is None:
        fitting = [each.name for each in data.values() if each.kind == ROLES[role]]
        known = (
            f"one of {', '.join(fitting)}" if fitting else f"one, which data does not have yet (kind: {ROLES[role]})"
        )
        raise ConfigProblemError(f"{role} is not set; name {known}")
    return data[name]
