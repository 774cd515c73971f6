"""What is wrong with the inputs of jobs, where the sweep file says so, and the line that tells it."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import SweepFileError
from sweep.spec.yaml_source import YamlNode, YamlSource, cut_text, read_yaml

MOST_LETTERS = 5_000
"""Of what is wrong: a whole path of Linux (4,096) and the words beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProblem:
    """Something that is missing or does not fit."""

    setting: str
    """Of the sweep file: `data.NAME`, `engines.NAME`, `evaluate.text_tasks`."""
    value: str = ""
    """What the setting names there, where it may stand in several places."""
    what: str
    """Names the file."""
    cure: str
    identity: str = ""
    """By which it is known again, where `what` holds numbers that change."""

    @property
    def name(self) -> str:
        """Equal for the same problem, found at another time."""
        return self.identity or f"{self.setting}: {self.what}"

    def convert_to_dict(self, line: int) -> dict[str, Any]:
        """As JSON types (docs/json.md, section `plan`)."""
        return {"setting": self.setting, "line": line, "what": self.what, "cure": self.cure}


@dataclass(frozen=True, slots=True)
class SweepFileLines:
    """Finds the lines of a sweep file that settings stand in."""

    source: YamlSource | None
    """None: the file cannot be read any more."""

    @classmethod
    def from_file(cls, path: Path) -> "SweepFileLines":
        """Of a sweep file that was planned before."""
        try:
            return cls(read_yaml(path))
        except SweepFileError:
            return cls(None)

    def find_line(self, problem: InputProblem) -> int:
        """The line of the setting, from 1; 0 where there is none."""
        if self.source is None:
            return 0
        section, _, name = problem.setting.partition(".")
        if section in {"data", "engines"}:
            return self.source.find_line((section, name))
        fitting = [
            node.line
            for where, node in iter_nodes(self.source.root)
            if is_setting(where, problem.setting) and has_value(node, problem.value)
        ]
        return next(iter(fitting), 0)

    def sort_problems(self, problems: Iterable[InputProblem]) -> tuple[InputProblem, ...]:
        """In the order of the file; those without a line last."""
        return tuple(sorted(problems, key=lambda problem: self.find_line(problem) or sys.maxsize))

    def format_problem(self, problem: InputProblem, place: str) -> str:
        """`PLACE:LINE: SETTING: what; what would do`, in one line. `place`: the file; empty: a stored sweep's."""
        line = self.find_line(problem)
        where = f"{place}:{line}" if place and line else f"line {line} of the sweep file" if line else place
        what = cut_text(problem.what, MOST_LETTERS)  # a path of the sweep file may be of any length
        told = f"{where + ': ' if where else ''}{problem.setting}: {what}; {problem.cure}"
        return "".join(letter if letter.isprintable() else " " for letter in told)


def iter_nodes(node: YamlNode, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], YamlNode]]:
    """Each value of a file in the file's order, with the keys that lead to it; positions in lists are left out."""
    yield where, node
    for key, part in node.parts.items():
        yield from iter_nodes(part, where if isinstance(key, int) else (*where, *key.split(".")))


def is_setting(where: Sequence[str], setting: str) -> bool:
    """Whether the keys end in the setting's, or are those of one task in its list (`name`)."""
    wanted = setting.split(".")
    return list(where[-len(wanted) :]) == wanted or list(where[-len(wanted) - 1 :]) == [*wanted, "name"]


def has_value(node: YamlNode, value: str) -> bool:
    """Whether it is the value that is looked for; any does where none is."""
    return not value or node.value == value


def select_new(problems: Iterable[InputProblem], known: Iterable[str]) -> list[InputProblem]:
    """Those that are not among the names that a user has accepted."""
    accepted = set(known)
    return [problem for problem in problems if problem.name not in accepted]
