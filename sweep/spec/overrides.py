"""`sweep plan FILE --set PATH=VALUE`: values of the command line, laid over what a sweep file says."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import SweepFileError, UsageError
from sweep.spec.schema import SweepFields
from sweep.spec.yaml_source import (
    SettingPath,
    YamlNode,
    YamlSource,
    cut_text,
    format_given_value,
    parse_plain_scalar,
    parse_yaml,
)

OPTION = "--set"
NOTE = "# planned with "
"""Begins a line of the stored sweep file for each option."""
ALIASES = {"pretrain.seed": "seed"}
"""Names that a reader of a job's configuration would expect, and the setting of the sweep file that decides them."""


# Why: docs/decisions.md, D185
def apply_overrides(source: YamlSource, given: Sequence[str]) -> YamlSource:
    """The source as if the file had these values. `set_text` is what is stored: the same values, and a note of each.

    Raises UsageError for an option that cannot be read or has no place.
    """
    root, options = source.root, dict(source.options)
    for words in given:
        option = f"{OPTION} {words}"
        name, mark, text = words.partition("=")
        if not mark or not name or not text.strip():
            raise UsageError(f"{cut_text(option, 100)}: give a path and its value, as in `{OPTION} pretrain.seed=7`")
        where = find_place(root, name)
        root = replace_value(root, where, parse_value(option, text), option)
        options[where] = option
    return replace(source, root=root, options=options, set_text=render_source(root.value, given, source))


def parse_value(option: str, text: str) -> YamlNode:
    """The value as the file would have it: `7`, `3e-3`, `[0, 50]`, `{name: cloze}`."""
    try:
        return parse_yaml(text, Path(option)).root
    except SweepFileError as error:
        raise UsageError(str(error).replace(f"{option}:1:", f"{option}:")) from None


def find_place(root: YamlNode, name: str) -> SettingPath:
    """The path in the file: a name that is no section of it is a default. Names with dots are found as they stand."""
    name = ALIASES.get(name, name)
    steps = name.split(".")
    if steps[0] not in SweepFields.model_fields:
        steps = ["defaults", *steps]
    place: list[str | int] = []
    node: YamlNode | None = root
    while steps:
        taken = next(
            (number for number in range(len(steps), 1, -1) if node and ".".join(steps[:number]) in node.parts), 1
        )
        step: str | int = ".".join(steps[:taken])
        if node is not None and isinstance(node.value, list) and str(step).isdecimal():
            step = int(step)
        place.append(step)
        node = node.parts.get(step) if node else None
        steps = steps[taken:]
    return tuple(place)


def replace_value(node: YamlNode, where: SettingPath, new: YamlNode, option: str) -> YamlNode:
    """A copy of the node with `new` at that place below it; what is shared by aliases stays as it is elsewhere."""
    if not where:
        return YamlNode(new.value, node.line, new.parts, new.size)
    step, rest = where[0], where[1:]
    if isinstance(node.value, list):
        if step not in node.parts:
            raise UsageError(
                f"{cut_text(option, 100)}: {cut_text(str(step), 40)!r} is no position of that list, which has "
                f"{len(node.value)} (from 0 on)"
            )
    elif not (isinstance(node.value, dict) or node.value is None):
        raise UsageError(
            f"{cut_text(option, 100)}: the file has {format_given_value(node.value)} there, which has no part "
            f"{cut_text(str(step), 40)!r}"
        )
    part = replace_value(node.parts.get(step) or YamlNode(None, node.line), rest, new, option)
    parts = {**node.parts, step: part}
    value: Any = list(node.value) if isinstance(node.value, list) else dict(node.value or {})
    value[step] = part.value
    return YamlNode(value, node.line, parts, node.size + part.size)


class PlainDumper(yaml.SafeDumper):
    """Quotes each text that our reader, whose rules are YAML 1.2's, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def build_text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """In quotes where the plain words would be read as a number, a truth or nothing."""
    try:
        is_plain = parse_plain_scalar(text) == text
    except ValueError:
        is_plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_plain else '"')


PlainDumper.add_representer(str, build_text_node)


def render_source(data: Any, given: Sequence[str], source: YamlSource) -> str:
    """A sweep file of these values, which plans to the same jobs; its comments are in the file that was given."""
    notes = "".join(f"{NOTE}{OPTION} {shlex.quote(words)}\n" for words in given)
    body = yaml.dump(data, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"{notes}# over {source.path.name}, whose comments are not here\n{body}"


def list_noted_overrides(text: str) -> list[str]:
    """The options that a stored sweep file was planned with."""
    return [line.removeprefix(NOTE) for line in text.splitlines() if line.startswith(NOTE)]
