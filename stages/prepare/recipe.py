"""How a set of token shards is made, and where its parts lie while it is being made."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.prepare.inputs import PIECE_BYTES, Input, TextRule

FORMAT = 1
"""Raised when the same recipe gives other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the tokens and their order, besides the inputs."""

    tokenizer: str
    """Absolute path of a tokenizer.json."""
    tokenizer_digest: str
    end_of_text: str = ""
    """Name of the token between documents; empty: the first usual one that the tokenizer knows."""
    vocabulary: int
    """Ids lie below it."""
    field: str = "text"
    txt: TextRule = "file"
    context: int = 2_048
    seed: int = 0
    shard_sequences: int = 2_048
    piece_bytes: int = PIECE_BYTES
    """See `divide`: where pieces end decides which sequences are made of their ends."""

    joined_parts: bool = False
    """The parts of a long document give the tokens of the whole, with a tokenizer that marks beginnings."""

    @property
    def sequence_tokens(self) -> int:
        """One more than the context, so that each token has a next one."""
        return self.context + 1

    @property
    def token_type(self) -> str:
        """numpy's name of the type of the token files."""
        return "<u2" if self.vocabulary <= 1 << 16 else "<u4"

    def build_settings(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """As JSON; two runs with the same make the same bytes. Where the tokenizer lies does not matter."""
        own = {name: value for name, value in asdict(self).items() if name != "tokenizer"}
        if not self.joined_parts:  # a setting of tokenizers that mark beginnings; the others' data sets never had it
            del own["joined_parts"]
        return {"format": FORMAT, "kind": "text", **own, "inputs": [asdict(each) for each in inputs]}


def compute_file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first setting in which two recipes differ, for a message; empty if they are equal."""
    for name in dict.fromkeys([*one, *other]):
        first, second = one.get(name), other.get(name)
        if first == second:
            continue
        if name == "inputs" and isinstance(first, list) and isinstance(second, list):
            return describe_input_difference(first, second)
        return f"{name} was {first!r} and is {second!r}"
    return ""


def describe_input_difference(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str:
    """What differs between two lists of inputs."""
    if [each["path"] for each in before] != [each["path"] for each in now]:
        return f"the inputs were {len(before)} files and are {len(now)}, or lie elsewhere"
    changed = [new["path"] for old, new in zip(before, now, strict=True) if old != new]
    return f"{changed[0]} has changed since"


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """What lies in the hidden folder beside the result while that is being made."""

    root: Path

    @property
    def plan(self) -> Path:
        """The recipe's settings."""
        return self.root / "plan.json"

    @property
    def sequences(self) -> Path:
        """How many whole sequences each file of tokens holds; there once all pieces are."""
        return self.root / "sequences.json"

    @property
    def result(self) -> Path:
        """The folder that becomes the result."""
        return self.root / "result"

    def build_tokens_path(self, piece: int) -> Path:
        """A piece's token ids, one after the other."""
        return self.root / "pieces" / f"{piece:06d}.tokens"

    def build_piece_record_path(self, piece: int) -> Path:
        """Written when the piece is done."""
        return self.root / "pieces" / f"{piece:06d}.json"

    def build_shard_path(self, number: int) -> Path:
        return self.result / f"shard-{number:06d}.tar"

    def build_shard_record_path(self, number: int) -> Path:
        """Written when the shard is done."""
        return self.root / "shards" / f"{number:06d}.json"
