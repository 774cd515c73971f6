"""YAML as plain data with line numbers, safe to read from anyone.

Scalars go by YAML 1.2's core schema (`3e-3` is a number, `no` is a word, a date is a word), plus `1_000_000`.
Refused: files over 1 MiB, deep nesting, repeated keys, tags beyond the core's, recursive aliases, alias bombs.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jobs.errors import add_denial
from jobs.store.reading import open_to_read
from sweep.errors import SweepFileError

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]  # same interface, a hundred times slower

MAX_BYTES = 2**20
MAX_DEPTH = 30
MAX_NODES = 100_000
"""Values of a file once its aliases are expanded."""

NULL = re.compile(r"~|null|Null|NULL|")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?([0-9]+|[0-9]{1,3}(_[0-9]{3})+)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
MAX_DIGITS = 300
MOST_OF_OPTION = 100
"""Letters of an option in a message."""
CORE = "tag:yaml.org,2002:"


class TooDeepError(SweepFileError):
    """A file is nested deeper than MAX_DEPTH levels."""


SettingPath = tuple[str | int, ...]
"""Keys and list positions that lead to a value."""


@dataclass(slots=True)
class YamlNode:
    """One value, where it stands, and the nodes of its parts by key or position."""

    value: Any
    line: int
    parts: dict[str | int, "YamlNode"] = field(default_factory=dict)
    size: int = 1
    """Values in it, itself included, aliases expanded."""


@dataclass(frozen=True, slots=True)
class YamlSource:
    """A parsed file: `data` is plain dictionaries (keys are strings), lists and scalars."""

    path: Path
    text: str
    root: YamlNode
    options: Mapping[SettingPath, str] = field(default_factory=dict)
    """Values that options of the command line gave, by their place: the option's words."""
    set_text: str = ""
    """The text with those values; empty where there are none."""

    @property
    def data(self) -> Any:
        return self.root.value

    def find_line(self, where: SettingPath) -> int:
        """Line (from 1) of the value at `where`, or of its nearest parent that the file has."""
        return self.find_deepest_node(where)[0].line

    def has_value(self, where: SettingPath) -> bool:
        """Whether the file has a value there."""
        return self.find_deepest_node(where)[1] == len(where)

    def find_deepest_node(self, where: SettingPath) -> tuple[YamlNode, int]:
        """The deepest node on the way to `where`, and how many steps lead to it."""
        node, steps = self.root, 0
        while steps < len(where):
            dotted = ".".join(map(str, where[steps : steps + 2]))
            if where[steps] in node.parts:
                node, steps = node.parts[where[steps]], steps + 1
            elif dotted in node.parts:  # `trunk.seed: 1` is found as trunk, seed
                node, steps = node.parts[dotted], steps + 2
            else:
                break
        return node, steps

    def format_problem(self, where: SettingPath, message: str) -> str:
        """One line of an error: `FILE:LINE: a.b.0: message`."""
        place = ".".join(map(format_step, where))
        given = [option for path, option in self.options.items() if where[: len(path)] == path]
        source = cut_text(given[-1], MOST_OF_OPTION) if given else f"{self.path}:{self.find_line(where)}"
        return f"{source}: {place}{': ' if place else ''}{cut_text(message, MOST_LETTERS)}"

    def iter_empty_values(self) -> Iterator[SettingPath]:
        """Where the file names a field or begins an entry and gives it no value."""
        todo: list[tuple[SettingPath, YamlNode]] = [((), self.root)]
        while todo:
            where, node = todo.pop()
            if node.value is None:
                yield where
            todo += [((*where, step), part) for step, part in reversed(node.parts.items())]


def read_yaml(path: Path) -> YamlSource:
    """Reads one YAML document; SweepFileError says what is wrong and in which line."""
    try:
        with open_to_read(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SweepFileError(f"{path}: cannot be read: {add_denial(error.strerror or str(error), error)}") from None
    if len(content) > MAX_BYTES:
        raise SweepFileError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; a sweep file is a few kilobytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SweepFileError(f"{path}:{line}: is not UTF-8 text (byte 0x{content[error.start]:02x})") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> YamlSource:
    """Parses one document; `path` stands in messages only."""
    try:
        root = parse_document(text, path)
    except yaml.YAMLError as error:
        check_depth_before(text, path, error)
        raise SweepFileError(format_syntax_problem(path, error, text)) from None
    return YamlSource(path, text, root)


def parse_document(text: str, path: Path) -> YamlNode:
    """The nodes of the one document in `text`; YAMLError or SweepFileError if there is none."""
    loader = Loader(text)
    try:
        return YamlParser(path, loader.get_event).parse_document()
    finally:
        loader.dispose()


def check_depth_before(text: str, path: Path, error: yaml.YAMLError) -> None:
    """Raises TooDeepError if the text is nested too deep before the place where the library gave up.

    The library reads up to 1,024 characters ahead, so its own limit of depth (PyYAML 6.0.4 has one, of 1,000 levels)
    can end the reading before the events of the first levels have come. The limit and its words differ between
    releases; ours must not.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        try:
            parse_document(text[: mark.index], path)
        except TooDeepError:
            raise
        except (SweepFileError, yaml.YAMLError):
            pass  # the text ends too early here, which need not be its fault


def format_syntax_problem(path: Path, error: yaml.YAMLError, text: str) -> str:
    """The parser's complaint as one line."""
    if isinstance(error, yaml.reader.ReaderError):  # its position counts bytes or letters, as the library was built
        letter = chr(error.character) if isinstance(error.character, int) else str(error.character)
        line = text.count("\n", 0, max(0, text.find(letter))) + 1
        return f"{path}:{line}: is not YAML: the character U+{ord(letter[:1]):04X} is not allowed; take it out"
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    place = f"{path}:{mark.line + 1}" if mark else str(path)
    return f"{place}: is not YAML: {what}{f' ({context})' if context else ''}"


# Why: docs/decisions.md, D9
class YamlParser:
    """Builds nodes from the loader's events, and stops at the first thing that is not allowed."""

    def __init__(self, path: Path, next_event: Callable[[], Any]) -> None:
        self.path = path
        self.next_event = next_event
        self.anchors: dict[str, YamlNode] = {}
        self.nodes = 0

    def parse_document(self) -> YamlNode:
        self.next_event()  # the stream's start
        first = self.next_event()
        if isinstance(first, yaml.StreamEndEvent):
            raise SweepFileError(f"{self.path}:1: is empty; a sweep file begins with `name: ...`")
        root = self.parse_node(self.next_event(), 0)
        self.next_event()  # the document's end
        after = self.next_event()
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.build_error(after, "a second document begins here; a file holds one")
        return root

    def parse_node(self, event: Any, depth: int) -> YamlNode:
        if depth > MAX_DEPTH:
            raise TooDeepError(f"{self.path}:{find_event_line(event)}: is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.parse_alias(event)
        self.check_tag(event)
        if isinstance(event, yaml.ScalarEvent):
            node = YamlNode(self.parse_scalar(event), find_event_line(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.parse_sequence(event, depth)
        else:
            node = self.parse_mapping(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        self.count_nodes(event, 1)
        return node

    def parse_alias(self, event: Any) -> YamlNode:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise self.build_error(event, f"alias *{event.anchor} stands for itself or for nothing above it")
        self.count_nodes(event, node.size)
        # shown where the alias stands: the reader sees that place first
        return YamlNode(node.value, find_event_line(event), node.parts, node.size)

    def count_nodes(self, event: Any, size: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise self.build_error(
                event, f"the file holds more than {MAX_NODES:,} values once its aliases are expanded"
            )

    def parse_sequence(self, event: Any, depth: int) -> YamlNode:
        node = YamlNode([], find_event_line(event))
        while not isinstance(event := self.next_event(), yaml.SequenceEndEvent):
            part = self.parse_node(event, depth + 1)
            node.parts[len(node.value)] = part
            node.value.append(part.value)
            node.size += part.size
        return node

    def parse_mapping(self, event: Any, depth: int) -> YamlNode:
        node = YamlNode({}, find_event_line(event))
        while not isinstance(event := self.next_event(), yaml.MappingEndEvent):
            key = self.parse_key(event)
            if key in node.value:
                line = node.parts[key].line
                raise self.build_error(
                    event, f"key {format_given_value(key)} stands here twice, first in line {line}; keep one"
                )
            part = self.parse_node(self.next_event(), depth + 1)
            # an own copy, so that an anchored value used as another's keeps its line
            node.parts[key] = YamlNode(part.value, find_event_line(event), part.parts, part.size)
            node.value[key] = part.value
            node.size += part.size
        return node

    def parse_key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self.build_error(event, "a key must be a plain word")
        self.check_tag(event)
        if event.value == "<<" and event.implicit[0]:
            raise self.build_error(
                event, "merging by '<<' is not supported; use `defaults`, `like` or an alias of a value"
            )
        return str(event.value)

    def check_tag(self, event: Any) -> None:
        tag = event.tag
        if tag in (None, "!") or (tag.startswith(CORE) and tag.removeprefix(CORE) in CORE_TAGS[type(event)]):
            return
        tag = tag.replace(CORE, "!!")
        raise self.build_error(
            event, f"tag {format_given_value(tag)} is not allowed here; a sweep file holds plain values only"
        )

    def parse_scalar(self, event: Any) -> Any:
        tag, text = event.tag, event.value
        if tag in (CORE + "str", "!") or (tag is None and not event.implicit[0]):
            return text  # `implicit[0]`: unquoted
        try:
            value = parse_plain_scalar(text)
        except ValueError as error:
            raise self.build_error(event, str(error)) from None
        if tag is not None:
            return self.apply_tag(event, value)
        return value

    def apply_tag(self, event: Any, value: Any) -> Any:
        wanted = CORE_TYPES[event.tag.removeprefix(CORE)]
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            raise self.build_error(event, f"{format_given_value(event.value)} is not of the type that its tag names")
        return value

    def build_error(self, event: Any, message: str) -> SweepFileError:
        return SweepFileError(f"{self.path}:{find_event_line(event)}: {message}")


def find_event_line(event: yaml.Event) -> int:
    """Line of the event's begin, from 1."""
    return event.start_mark.line + 1 if event.start_mark else 1


CORE_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}
CORE_TAGS: dict[type, set[str]] = {
    yaml.ScalarEvent: {"str", *CORE_TYPES},
    yaml.SequenceStartEvent: {"seq"},
    yaml.MappingStartEvent: {"map"},
}


def parse_plain_scalar(text: str) -> Any:
    """An unquoted scalar's value; ValueError if it is a number too long to be meant."""
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text[0] in "tT"
    if len(text) > MAX_DIGITS and text[:1] in "+-.0123456789" and FLOAT.fullmatch(text.replace("_", "")):
        raise ValueError(f"a number of {len(text)} characters is too long")
    if INT.fullmatch(text):
        return int(text.replace("_", ""))
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


MOST_LETTERS = 2_000
"""Of a message: a list of known names may be long, what a file gives must not be repeated without end."""


def format_step(step: str | int) -> str:
    """A key of the file as a part of its place, on one line and not at any length."""
    text = str(step)
    return cut_text(text, 80) if text.isprintable() else cut_text(repr(step), 80)


def cut_text(text: str, limit: int) -> str:
    """The text, or its beginning and `…`."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def format_given_value(value: Any, limit: int = 60) -> str:
    """A given value for a message: quoted, one line, cut to `limit` characters."""
    return cut_text(repr(value), limit)
