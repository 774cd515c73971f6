"""Samples of webdataset tars, read by offset: nothing is unpacked, so a member's name is never a path.

webdataset itself reads tars as streams, from the start; a resumed run would have to read all that it had seen.
"""

import json
import os
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from stages.errors import DataError

OPEN_SHARDS = 64
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Member:
    """Where a tar member's content lies in its file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarSample:
    """Members that share a key: `abc.jpg`, `abc.txt`, `abc.json` are one sample."""

    where: str
    """Shard and key, for messages."""
    members: dict[str, bytes]
    """By extension in small letters (`jpg`, `json.gz`)."""


class OpenShard:
    """One tar file, open for reading, with an index of its samples in the order of their first members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = index_tar(path)
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, number: int) -> TarSample:
        """Sample `number`. DataError if the file ends before the member's content does."""
        key, members = self.samples[number]
        content = {extension: self._content(key, member) for extension, member in members.items()}
        return TarSample(f"{self.path.name}: {key}", content)

    def read_member(self, number: int, extension: str) -> bytes:
        """The content of one member of sample `number`."""
        key, members = self.samples[number]
        return self._content(key, members[extension])

    def close(self) -> None:
        os.close(self._descriptor)

    def _content(self, key: str, member: Member) -> bytes:
        content = os.pread(self._descriptor, member.size, member.offset)
        if len(content) != member.size:
            raise DataError(f"{self.path}: cut off in {key}: {member.size} bytes expected, {len(content)} there")
        return content


def index_tar(path: Path) -> list[tuple[str, dict[str, Member]]]:
    """(key, extension -> member) of a tar's samples; only headers are read. DataError if it is no whole tar."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                if entry.isfile():
                    key, extension = split_member_name(entry.name)
                    samples.setdefault(key, {})[extension] = Member(entry.offset_data, entry.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: not a readable tar: {error}") from error
    return list(samples.items())


def split_member_name(name: str) -> tuple[str, str]:
    """webdataset's rule: the extension begins at the first dot of the last path component."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


class TarShards:
    """All samples of a folder of tars (or of one tar), numbered in the order of the manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._shards, counts = read_manifest(path) if path.is_dir() else count_samples([path])
        self._ends = list(accumulate(counts))
        self.size = self._ends[-1] if self._ends else 0
        if not self.size:
            raise DataError(f"{path}: no samples; a folder of tars with a {MANIFEST}, or a tar, is expected")

    def read(self, index: int) -> TarSample:
        """Sample `index` of all."""
        number = bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        return self._shard(number).read(index - first)

    def _shard(self, number: int) -> OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = OpenShard(self._shards[number])
        expected = self._ends[number] - (self._ends[number - 1] if number else 0)
        if len(shard.samples) < expected:
            raise DataError(f"{shard.path}: {len(shard.samples)} samples; its manifest says {expected}")
        self._open[number] = shard
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return shard


def read_manifest(folder: Path) -> tuple[list[Path], list[int]]:
    """Shards of a folder and their sizes: from open_lm's manifest.jsonl, else by reading every tar's headers."""
    path = folder / MANIFEST
    if not path.exists():
        return count_samples(sorted(folder.glob("*.tar")))
    shards, counts = [], []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, count = str(record["shard"]), int(record.get("num_sequences", record.get("num_chunks")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{path}:{number}: a line like {{"shard": "00000000", "num_sequences": 100}}') from error
        if "/" in name or name.startswith(".") or count < 0:
            raise DataError(f"{path}:{number}: shard {name!r} with {count} samples: a plain name is expected")
        shards.append(folder / (name if name.endswith(".tar") else f"{name}.tar"))
        counts.append(count)
    return shards, counts


def count_samples(paths: list[Path]) -> tuple[list[Path], list[int]]:
    """Shards without a manifest and their sizes."""
    return paths, [len(index_tar(path)) for path in paths]
