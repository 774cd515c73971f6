"""Second pass: sequences of all pieces, shuffled together, to open_lm's shards.

The sequence at a place of the result is a keyed permutation of that place: a shard needs no memory but its own, can be
written by any process at any time, and costs one small read a sequence.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from stages.data.order import permuted
from stages.files import replacing, write_json
from stages.prepare.recipe import Recipe, WorkFolder
from stages.prepare.tar_files import write_tar
from stages.prepare.token_files import open_token_files

GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be written, for a worker."""

    recipe: Recipe
    folder: WorkFolder
    number: int
    sequences: int
    """Of all shards."""

    @property
    def places(self) -> range:
        """The shard's places in the shuffled order."""
        first = self.number * self.recipe.shard_sequences
        return range(first, min(first + self.recipe.shard_sequences, self.sequences))


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """A finished shard."""

    sequences: int
    bytes: int
    sha256: str


def make_shard(task: ShardTask) -> ShardRecord:
    """Writes a shard and then its record."""
    path = task.folder.shard(task.number)
    with replacing(path) as unfinished:
        write_tar(unfinished, _members(task))
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = unfinished.stat().st_size
    record = ShardRecord(len(task.places), size, digest)
    write_json(task.folder.shard_record(task.number), asdict(record))
    return record


def _members(task: ShardTask) -> Iterator[tuple[str, bytes]]:
    files = open_token_files(task.recipe, task.folder.root)
    for place in task.places:
        tokens = files.read(permuted(place, task.sequences, task.recipe.seed)).tolist()
        text = json.dumps(tokens, separators=(",", ":"))
        yield f"{place:09d}.json.gz", gzip.compress(text.encode(), GZIP_LEVEL, mtime=0)


def read_shard_record(folder: WorkFolder, number: int) -> ShardRecord | None:
    """The record of a finished shard, if it is whole."""
    try:
        record = ShardRecord(**json.loads(folder.shard_record(number).read_bytes()))
        size = folder.shard(number).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return record if size == record.bytes else None
