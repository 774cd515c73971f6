"""Options of a command as a dataclass, built from the parsed command line. No code behind `run` sees argparse."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options of every command. Each command adds its own in a subclass, a field for each argument of its parser."""

    store: Path
    """Folder of all sweeps and runs."""


OptionsT = TypeVar("OptionsT", bound=CommonOptions)


def read_options(kind: type[OptionsT], given: argparse.Namespace) -> OptionsT:
    """The parsed command line as a dataclass: each field of `kind` takes the argument of its name, a list as a tuple.

    A field without an argument of its name keeps its default.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(given).items()
    }
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
