"""Reads what scontrol and sacctmgr show of a cluster's settings."""

import re
from collections.abc import Mapping, Sequence


def read_config(text: str) -> tuple[Mapping[str, str], ...]:
    """`scontrol show config`: one mapping of the lines `Key = value`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and re.fullmatch(r"\S+\s*", key):
            found.setdefault(key.strip(), value.strip())  # later sections repeat names of the first
    return (found,)


def read_records(text: str) -> tuple[Mapping[str, str], ...]:
    """`scontrol --oneliner show ...`: one mapping a line of `Key=value Key=value`; a value may hold `=` and spaces."""
    return tuple(_record(line) for line in text.splitlines() if line.strip())


def read_table(text: str, fields: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """`sacctmgr --parsable2 --noheader`: one mapping a line, by the names of the fields that were asked for."""
    lines = (line.split("|") for line in text.splitlines() if line)
    return tuple(dict(zip(fields, parts, strict=True)) for parts in lines if len(parts) == len(fields))


def _record(line: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    last = ""
    for word in line.split():
        key, sign, value = word.partition("=")
        if sign and re.fullmatch(r"[A-Za-z][\w:/]*", key):
            last = key
            found[key] = value
        elif last:
            found[last] += f" {word}"
    return found
