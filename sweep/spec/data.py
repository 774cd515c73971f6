"""The data sets of a sweep file: what kind they are and where they lie."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from sweep.spec.fields import Count, Fields, Multiplier, Name, Revision
from sweep.spec.settings import Layer

DataKind = Literal["text", "captions", "conversations", "encoder", "tasks", "tokenizer"]

URL = re.compile(r"(https?|s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._~:/@%+,=-]*")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
UNSAFE = re.compile(r"[\x00-\x1f\x7f'\"`$;|&<>\\]")
STORE_PREFIX = "$STORE/"

ROLES: dict[str, DataKind] = {
    "text": "text",
    "captions": "captions",
    "instructions": "conversations",
    "tokenizer": "tokenizer",
    "finetune.conversations": "conversations",
    "evaluate.tasks": "tasks",
}
"""Settings that name a data set, and the kind that they take. `encoder_weights` may name several: see there."""


class DataFields(Fields):
    """One entry of `data` in a sweep file."""

    kind: DataKind = Field(description="text, captions, conversations, encoder, tasks or tokenizer")
    path: str = Field(
        min_length=1,
        max_length=1_000,
        description="a path beside the sweep file, below $STORE/ or absolute, or an http, s3, gs or az address",
    )
    revision: Revision = Field("", description="a word that names the content; changing it makes new keys")
    field: str = Field(
        "",
        pattern=r"^$|^[A-Za-z0-9_.-]{1,60}(,[A-Za-z0-9_.-]{1,60}){0,19}$",
        description="a caption's key in the sample's JSON, or txt; of several with commas between, one by chance",
    )
    encoder: Name | None = Field(None, description="the vision encoder whose weights a data set of kind encoder holds")
    mean_text_tokens: Multiplier | None = Field(None, description="the mean text tokens of a sample, for the estimate")
    examples: Count | None = Field(None, description="the number of samples, for the estimate")


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


def resolved_path(given: str, folder: Path, store: Path) -> str:
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


def data_layer(data: Mapping[str, DataSet]) -> Layer:
    """Where a kind has one data set only, every role of that kind means it."""
    layer: Layer = {}
    for role, kind in ROLES.items():
        names = [each.name for each in data.values() if each.kind == kind]
        if len(names) == 1:
            layer[role] = ((names[0], 1),) if role == "text" else names[0]
    return layer


def role_problem(role: str, name: str, data: Mapping[str, DataSet]) -> str:
    """What is wrong with `name` as a value of the setting `role`; empty if nothing is."""
    return kind_problem(role, ROLES[role], name, data)


def kind_problem(role: str, kind: DataKind, name: str, data: Mapping[str, DataSet]) -> str:
    """What is wrong with `name` as a data set of `kind`; empty if nothing is."""
    fitting = sorted(each.name for each in data.values() if each.kind == kind)
    if name in fitting:
        return ""
    known = f"known are {', '.join(fitting)}" if fitting else f"add one under data, with kind: {kind}"
    if name in data:
        return f"{name!r} is a data set of kind {data[name].kind}; {role} takes kind {kind}; {known}"
    return f"{name!r} is not a data set of this file; {role} takes one of kind {kind}; {known}"
