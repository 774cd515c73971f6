"""What a look at data finds: declared once for the program that looks and for `sweep init`, which asks it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


# Why: docs/decisions.md, D214
@dataclass(frozen=True, slots=True)
class Find:
    """A file or folder that may be data of a sweep, or that such data can be made of."""

    kind: str
    """A kind of data of a sweep file; `raw text`, `raw captions`, `raw conversations`: what such data are made of."""
    path: str
    samples: int = 0
    tokens: int = 0
    """Of text."""
    context: int = 0
    """Of text: the longest that its sequences have room for."""
    vocabulary: int = 0
    """The ids that a tokenizer or token shards need; 0: not known."""
    made_with: str = ""
    """SHA-256 of the tokenizer: of a tokenizer its own, of token shards that of theirs, where it is known."""
    fields: tuple[str, ...] = ()
    """Of captions: where they stand."""
    mean_text: float = 0.0
    """Tokens of a sample's text, in the mean."""
    longest_text: int = 0
    """Such that 99 of 100 are no longer."""
    text_tasks: tuple[str, ...] = ()
    vision_tasks: tuple[str, ...] = ()
    encoder: str = ""
    problem: str = ""
    """Why it cannot be used as it is."""
    seen: str = ""
    """Of what is raw: its endings, its columns."""
    options: tuple[str, ...] = ()
    """Of what is raw: words that the command of `sweep data` needs beside the input."""


def parse_find(content: Mapping[str, Any]) -> Find:
    """What `dataclasses.asdict` made of one, from JSON. TypeError for names that are none of its fields."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Find(**values)
