"""The data sets of a sweep file: what kind they are and where they lie."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from stages.data.addresses import check_braces_unless_there, has_several_places, join_places, split_places
from stages.vision.specs import EncoderSpec, UnknownEncoderError, resolve_encoder_spec
from sweep.spec.fields import Count, Fields, Multiplier, Name, Revision
from sweep.spec.settings import Layer

DataKind = Literal["text", "captions", "conversations", "encoder", "tasks", "tokenizer"]

URL = re.compile(r"(https?|s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._~:/@%+,={}-]*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
UNSAFE = re.compile(r"[\x00-\x1f\x7f'\"`$;|&<>\\]")
STORE_PREFIX = "$STORE/"
PLACE = (
    r"(?:(?:https?|s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._~:/@%+,={}-]*"
    r"|(?:\$STORE/)?(?!~|[A-Za-z][A-Za-z0-9+.-]*:(?!:))[^\x00-\x1f\x7f'\"`$;|&<>\\]+)"
)
ADDRESS = rf"^(?!(?:.*(?:/|::))?\.\.(?:/|::|$)){PLACE}(?:::{PLACE})*$"
"""What `resolve_data_path` takes, of one place or of several, as one pattern for editors."""

ROLES: dict[str, DataKind] = {
    "text": "text",
    "captions": "captions",
    "instructions": "conversations",
    "tokenizer": "tokenizer",
    "finetune.conversations": "conversations",
    "evaluate.tasks": "tasks",
}
"""Settings that name a data set, and the kind that they take. `encoder_weights` may name several: see there."""


def join_listed_places(value: Any) -> Any:
    """A YAML list of places as the one address that means them."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return join_places(value)
    return value


class DataFields(Fields):
    """One entry of `data` in a sweep file."""

    kind: DataKind = Field(
        description="what the data are: text, captions, conversations, encoder, tasks or tokenizer",
        json_schema_extra={
            "values": {
                "text": "token shards",
                "captions": "images with captions, webdataset shards",
                "conversations": "questions and answers about images, LLaVA's JSON",
                "encoder": "weights of a vision encoder, a folder of transformers",
                "tasks": "a folder of evaluation tasks",
                "tokenizer": "a tokenizer.json",
            }
        },
    )
    path: Annotated[str, BeforeValidator(join_listed_places)] = Field(
        min_length=1,
        max_length=200_000,
        description="a path beside the sweep file, below $STORE/ or absolute, or an http, s3, gs or az address; of "
        "shards and conversations also a list, with {0000..0127}, and with * on this machine",
    )
    revision: Revision = Field("", description="a word that names the content; changing it makes new keys")
    field: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9_.-]{1,60}(,[A-Za-z0-9_.-]{1,60}){0,19}$",
        description="a caption's key in the sample's JSON, or txt; of several with commas between, one by chance",
        json_schema_extra={"default": "`txt`"},
    )
    encoder: Name | None = Field(
        None,
        description="the vision encoder whose weights a data set of kind encoder holds",
        json_schema_extra={"needed": "several data sets of kind encoder"},
    )
    mean_text_tokens: Multiplier | None = Field(
        None,
        description="the mean text tokens of a sample, for the estimate",
        json_schema_extra={
            "unit": "tokens",
            "default": "counted, else assumed",
            "needed": "data that `plan` cannot count",
        },
    )
    examples: Count | None = Field(
        None,
        description="the number of samples, for the estimate",
        json_schema_extra={
            "unit": "samples",
            "default": "counted, else assumed",
            "needed": "data that `plan` cannot count",
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set; `path` is absolute, or a URL."""

    name: str
    kind: DataKind
    path: str
    revision: str = ""
    field: str = ""
    encoder: str | None = None
    mean_text_tokens: float | None = None
    examples: int | None = None
    identity: str = ""
    """What keys know its content by, where that is not its name; the planner finds it (`sweep.plan.data_identity`)."""
    task_identities: Mapping[str, str] = dataclass_field(default_factory=dict)
    """Of kind tasks: the same of each task, by the name of its file; such as FOLDER/FILE where keys go by names."""


SEVERAL_PLACES: frozenset[DataKind] = frozenset({"text", "captions", "conversations"})
"""Kinds whose data may lie in several places."""


def resolve_data_address(given: str, kind: DataKind, folder: Path, store: Path) -> str:
    """As `resolve_data_path`, of each place of a list; patterns stay as they are. ValueError too for a wrong pattern.

    What a pattern means is found out where the data are read: it is an address, and no part of any key.
    """
    if not all(given_places := split_places(given)):
        raise ValueError(f"{given!r}: a place of the list is empty")
    places = [resolve_data_path(place, folder, store) for place in given_places]
    address = join_places(places)
    if has_several_places(address):
        if kind not in SEVERAL_PLACES:
            raise ValueError(f"{given!r} means several places; data of kind {kind} lie in one, so name that")
        check_braces_unless_there(address)
    return address


def resolve_data_path(given: str, folder: Path, store: Path) -> str:
    """`given` as an absolute path or a URL; ValueError if it climbs out or is no plain address.

    `folder` is the sweep file's; a path that begins with $STORE/ lies below `store`.
    """
    if URL.fullmatch(given):
        if ".." in given.split("/"):
            raise ValueError(f"{given!r} climbs out of its place with '..'; name the place itself")
        return given
    if SCHEME.match(given):
        raise ValueError(f"{given!r} is no address that is read here; use a path, or http, https, s3, gs or az")
    root, rest = (store, given.removeprefix(STORE_PREFIX)) if given.startswith(STORE_PREFIX) else (folder, given)
    if UNSAFE.search(rest) or rest.startswith("~"):
        raise ValueError(
            f"{given!r} is not a plain path; quotes, control characters and ~ $ ; | & < > \\ ` are not taken, "
            "and $STORE/ only at the beginning"
        )
    if ".." in PurePosixPath(rest).parts:
        raise ValueError(f"{given!r} climbs out of its folder with '..'; use an absolute path or $STORE/")
    return os.path.normpath(Path(root).absolute() / rest)


def build_data_layer(data: Mapping[str, DataSet]) -> Layer:
    """Where a kind has one data set only, every role of that kind means it."""
    layer: Layer = {}
    for role, kind in ROLES.items():
        names = [each.name for each in data.values() if each.kind == kind]
        if len(names) == 1:
            layer[role] = ((names[0], 1),) if role == "text" else names[0]
    return layer


def find_role_problem(role: str, name: str, data: Mapping[str, DataSet]) -> str:
    """What is wrong with `name` as a value of the setting `role`; empty if nothing is."""
    return find_kind_problem(role, ROLES[role], name, data)


def find_kind_problem(role: str, kind: DataKind, name: str, data: Mapping[str, DataSet]) -> str:
    """What is wrong with `name` as a data set of `kind`; empty if nothing is."""
    fitting = sorted(each.name for each in data.values() if each.kind == kind)
    if name in fitting:
        return ""
    known = f"known are {', '.join(fitting)}" if fitting else f"add one under data, with kind: {kind}"
    if name in data:
        return f"{name!r} is a data set of kind {data[name].kind}; {role} takes kind {kind}; {known}"
    return f"{name!r} is not a data set of this file; {role} takes one of kind {kind}; {known}"


# Which data sets hold the weights of a vision encoder.
#
# A data set of kind encoder is a local folder with one encoder's weights. An encoder takes those that
# `encoder_weights` names, one for each of its parts; where that is not set, those whose `encoder` says that they are
# the part's; where none says so, the only one of the kind, if the encoder has one part. An encoder that has no
# weights, or brings its own, takes none, whatever is named: so one sweep can vary the encoder.

ENCODER_KIND: DataKind = "encoder"


class EncoderWeightsError(ValueError):
    """Weights that are missing or of another number; the message says what would do."""


def list_weighted_parts(encoder: str) -> tuple[EncoderSpec, ...]:
    """The parts of an encoder that need weights from outside: its transformers."""
    spec = resolve_encoder_spec(encoder)
    return tuple(part for part in spec.parts or (spec,) if part.layers)


# Why: docs/decisions.md, D25
def resolve_encoder_weights(
    encoder: str, named: tuple[str, ...] | None, data: Mapping[str, DataSet]
) -> tuple[DataSet, ...]:
    """The data sets with the weights of `encoder`, in the order of its parts. `named` is the setting `encoder_weights`.

    Raises:
        EncoderWeightsError: they are not named, or not as many as there are parts.
        stages.vision.specs.UnknownEncoderError: no such encoder.
    """
    parts = list_weighted_parts(encoder)
    if named is None or not parts:
        return tuple(find_part_weights(encoder, part, alone=len(parts) == 1, data=data) for part in parts)
    if len(named) != len(parts):
        raise EncoderWeightsError(
            f"encoder_weights names {len(named)} data sets ({', '.join(named)}), and {encoder} has {len(parts)} parts "
            f"with weights; name one for each: {', '.join(part.name for part in parts)}"
        )
    return tuple(data[name] for name in named)


def find_part_weights(encoder: str, part: EncoderSpec, *, alone: bool, data: Mapping[str, DataSet]) -> DataSet:
    """The one data set that says it holds `part`, or the only one there is; EncoderWeightsError."""
    all_of_kind = [each for each in data.values() if each.kind == ENCODER_KIND]
    fitting = [each for each in all_of_kind if each.encoder and is_part(each.encoder, part)]
    if not fitting and alone and len(all_of_kind) == 1 and not all_of_kind[0].encoder:
        fitting = all_of_kind
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise EncoderWeightsError(
            f"encoder_weights is not set, and {' and '.join(each.name for each in fitting)} all hold {part.name}; "
            f"name the one for {encoder}"
        )
    known = f"; of kind {ENCODER_KIND} there are {', '.join(each.name for each in all_of_kind)}" if all_of_kind else ""
    raise EncoderWeightsError(
        f"encoder {encoder} needs the weights of {part.name}, which no data set says to hold; add one under data "
        f"(kind: {ENCODER_KIND}, encoder: {find_part_name(part)}), or name one as encoder_weights{known}"
    )


def is_part(encoder: str, part: EncoderSpec) -> bool:
    """Whether the encoder of that name is `part`; a part may go by a shorter name than it has alone."""
    return replace(resolve_encoder_spec(encoder), name=part.name) == part


def find_part_name(part: EncoderSpec) -> str:
    """The name of a part by which `resolve_encoder_spec` knows it."""
    return part.name if part.name.endswith(f"-{part.image_size}") else f"{part.name}-{part.image_size}"


def build_content_revision(weights: tuple[DataSet, ...], given: str) -> str:
    """Names the weights' content: the data sets' revisions, and `given` (`pretrain.encoder_revision`) behind them."""
    revisions = [each.revision for each in weights] if any(each.revision for each in weights) else []
    return ",".join([*revisions, *([given] if given else [])])  # a revision holds no comma


def iter_encoder_problems(found: DataSet) -> Iterator[tuple[str, str]]:
    """What is wrong with a data set as an encoder's weights: the key of its entry, and the complaint."""
    if found.kind != ENCODER_KIND:
        if found.encoder is not None:
            yield "encoder", f"is for data sets of kind {ENCODER_KIND}; this one is of kind {found.kind}"
        return
    if "://" in found.path:
        yield (
            "path",
            f"{found.path!r} is no folder of this machine; an encoder's weights are read from one, so copy them",
        )
    if found.encoder is None:
        return
    try:
        parts = list_weighted_parts(found.encoder)
    except UnknownEncoderError as error:
        yield "encoder", str(error)
        return
    if len(parts) != 1:
        several = f"has {len(parts)} parts; name the part that this folder holds" if parts else "has no weights to keep"
        yield "encoder", f"{found.encoder!r} {several}"
