"""Second pass: sequences of all pieces, shuffled together, to open_lm's shards.

The sequence at a place of the result is a keyed permutation of that place: a shard needs no memory but its own, can be
written by any process at any time, and costs one small read a sequence.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from stages.data.order import permute_index
from stages.data.shards import MANIFEST
from stages.files import replace_atomically, write_json
from stages.prepare.pieces import open_token_files
from stages.prepare.recipe import Recipe, WorkFolder

# Writing webdataset tars and their manifest, with nothing of this machine or moment in them.


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A plain tar of (name, content)."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def write_manifest(folder: Path, shards: Iterable[tuple[str, int]]) -> None:
    """open_lm's manifest.jsonl, whole or absent: each shard's name without `.tar`, and its number of samples.

    It ends in a newline; open_lm passes over a last line that does not.
    """
    lines = (f"{json.dumps({'shard': name, 'num_sequences': count})}\n" for name, count in shards)
    with replace_atomically(folder / MANIFEST) as unfinished:
        unfinished.write_text("".join(lines))


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
    path = task.folder.build_shard_path(task.number)
    with replace_atomically(path) as unfinished:
        write_tar(unfinished, _members(task))
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = unfinished.stat().st_size
    record = ShardRecord(len(task.places), size, digest)
    write_json(task.folder.build_shard_record_path(task.number), asdict(record))
    return record


def _members(task: ShardTask) -> Iterator[tuple[str, bytes]]:
    files = open_token_files(task.recipe, task.folder.root)
    for place in task.places:
        # Why: docs/decisions.md, D27
        tokens = files.read(permute_index(place, task.sequences, task.recipe.seed)).tolist()
        text = json.dumps(tokens, separators=(",", ":"))
        yield f"{place:09d}.json.gz", gzip.compress(text.encode(), GZIP_LEVEL, mtime=0)


def read_shard_record(folder: WorkFolder, number: int) -> ShardRecord | None:
    """The record of a finished shard, if it is whole."""
    try:
        record = ShardRecord(**json.loads(folder.build_shard_record_path(number).read_bytes()))
        size = folder.build_shard_path(number).stat().st_size
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if size == record.bytes else None


# Members of a tar that suggest an attack or a mistake. They are harmless here: no name is ever a path, nothing is
# unpacked, and no member is run.

PROGRAM_SUFFIXES = {
    ".pkl",
    ".pickle",
    ".pt",
    ".pth",
    ".ckpt",
    ".npy",
    ".joblib",
    ".pyd",
    ".so",
    ".dll",
    ".py",
    ".pyc",
    ".exe",
    ".sh",
}
"""What other programs would run, or unpickle."""


def iter_odd_members(path: Path) -> Iterator[tuple[str, str]]:
    """(kind, name) of the odd members of a whole tar; nothing of one that tarfile cannot read."""
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if kind := find_odd_kind(entry):
                    yield kind, entry.name
    except (tarfile.TarError, OSError, ValueError):
        return


def find_odd_kind(entry: tarfile.TarInfo) -> str:
    """Why a member is odd; empty if it is not."""
    name = PurePosixPath(entry.name)
    if entry.issym():
        return "link"
    if entry.islnk():
        return ""  # the check tells of those, as samples are lost
    if not (entry.isfile() or entry.isdir()):
        return "device or pipe"
    if name.is_absolute() or ".." in name.parts:
        return "name that climbs out"
    return "pickle or program" if entry.isfile() and name.suffix.lower() in PROGRAM_SUFFIXES else ""
