"""The manifest that open_lm is given: the text data set's shards, in pieces that end where its epochs end.

open_lm takes whole shards for an epoch, so that its checkpoints would fall wherever shards end. It believes what a
manifest says of a shard's size, though: here the last shard of each epoch is said to hold just what the epoch still
needs. What is left of that shard is not read in this pass.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.data.shards import MANIFEST, read_manifest
from stages.errors import ConfigError, DataError
from stages.files import replace_atomically

DATA_KEYS = ("json.gz", "json", "txt")


@dataclass(frozen=True, slots=True)
class Shards:
    """A text data set on this machine."""

    folder: Path
    names: Sequence[str]
    """Files, `.tar` included."""
    sizes: Sequence[int]
    """Sequences of each."""

    @property
    def data_key(self) -> str:
        """open_lm's `data_key`: how the members are named. DataError if the first shard has none that it reads."""
        first = self.folder / self.names[0]
        try:
            with tarfile.open(first) as tar:
                member = next((entry.name for entry in tar if entry.isfile()), "")
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{first}: not a readable tar: {error}") from error
        found = next((key for key in DATA_KEYS if member.endswith(f".{key}")), "")
        if not found:
            raise DataError(f"{first}: begins with {member!r}; open_lm reads members named *.{', *.'.join(DATA_KEYS)}")
        return found


def read_shards(name: str, folder: Path) -> Shards:
    """The shards of a data set's manifest. DataError for a damaged one, ConfigError without any."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data set {name!r}: open_lm needs {path}: {error.strerror}") from error
    names, sizes = read_manifest(str(path), content)
    kept = [(each, size) for each, size in zip(names, sizes, strict=True) if size]
    if not kept:
        raise DataError(f"{path}: names no shard with sequences")
    if absent := [each for each, _ in kept if not (folder / each).is_file()]:
        raise DataError(f"{path}: {absent[0]} is not there")
    return Shards(folder, [each for each, _ in kept], [size for _, size in kept])


# Why: docs/decisions.md, D57
def plan_shard_reads(sizes: Sequence[int], *, epochs: int, sequences: int, seed: int) -> Iterator[tuple[int, int]]:
    """(shard, sequences to read of it) for `epochs` times `sequences` sequences, in the order of training.

    Each pass over the shards has an order of its own, open_lm's for `seed` + the pass.
    """
    order: list[int] = []
    passes = 0
    for _ in range(epochs):
        needed = sequences
        while needed:
            if not order:
                order = shuffle_indices(len(sizes), seed + passes)[::-1]
                passes += 1
            shard = order.pop()
            taken = min(needed, sizes[shard])
            needed -= taken
            yield shard, taken


def shuffle_indices(count: int, seed: int) -> list[int]:
    """Numbers below `count` in the order into which open_lm shuffles a manifest of as many lines."""
    order = list(range(count))
    np.random.default_rng(seed).shuffle(order)
    return order


def write_data(shards: Shards, folder: Path, rows: Sequence[tuple[int, int]], *, seed: int) -> None:
    """`folder` with a manifest that open_lm, shuffling it by `seed`, reads as `rows`, and links to the shards.

    Links have plain names: open_lm expands braces and commas in a shard's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(shards.names):
        link = folder / f"{number:08d}.tar"
        link.unlink(missing_ok=True)
        link.symlink_to(shards.folder / name)
    lines = [""] * len(rows)
    for (shard, taken), place in zip(rows, shuffle_indices(len(rows), seed), strict=True):
        lines[place] = json.dumps({"shard": f"{shard:08d}", "num_sequences": taken})
    with replace_atomically(folder / MANIFEST) as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in lines))  # open_lm drops a last line without an end
