"""Samples of webdataset tars, read by offset.

webdataset itself reads tars as streams, from the start; a resumed run would have to read all that it had seen.
"""

import os
import sys
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from stages.data.manifest import MANIFEST, read_manifest
from stages.data.sample import AbsentSampleError, BadSampleError
from stages.data.tar_index import index_tar, open_tar, read_index
from stages.errors import DataError

OPEN_SHARDS = 64
MAX_MEMBER_BYTES = 1 << 28
"""A larger member is a bad sample."""


@dataclass(frozen=True, slots=True)
class TarSample:
    """Members that share a key: `abc.jpg`, `abc.txt`, `abc.json` are one sample. Each is read when asked for."""

    where: str
    """Shard and key, for messages."""
    extensions: tuple[str, ...]
    """In small letters (`jpg`, `json.gz`)."""
    shard: "OpenShard"
    number: int

    def read(self, extension: str) -> bytes:
        """The content of one of its members."""
        return self.shard.read_member(self.number, extension)


class OpenShard:
    """One tar file, open for reading as long as the object is there."""

    def __init__(self, path: Path) -> None:
        """DataError if it is no whole tar."""
        self.path = path
        self._descriptor = open_tar(path)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.index = read_index(path, self._descriptor)

    def sample(self, number: int) -> TarSample:
        """Sample `number`. AbsentSampleError if there are fewer; BadSampleError if its key is not its own."""
        if number >= len(self.index):
            raise AbsentSampleError(f"{self.path.name}: sample {number} of {len(self.index)}")
        where = f"{self.path.name}: {self.index.keys[number]}"
        if number in self.index.repeated:
            raise BadSampleError(f"{where}: the key is there twice")
        return TarSample(where, self.index.extensions(number), self, number)

    def read_member(self, number: int, extension: str) -> bytes:
        """The content of one member of sample `number`. DataError if the file ends before it does."""
        member, key = self.index.member(number, extension), self.index.keys[number]
        if member.size > MAX_MEMBER_BYTES:
            raise BadSampleError(f"{self.path.name}: {key}: {extension} has more than {MAX_MEMBER_BYTES} bytes")
        content = os.pread(self._descriptor, member.size, member.offset)
        if len(content) != member.size:
            raise DataError(f"{self.path}: cut off in {key}: {member.size} bytes expected, {len(content)} there")
        return content


class ShardFolder(Protocol):
    """Where shards come from."""

    def manifest(self) -> tuple[list[str], list[int]]:
        """Names of the shards, and the samples that each is said to have."""
        ...

    def local(self, name: str) -> Path:
        """The shard as a local file, which may go again once it is open; DataError if it cannot be had."""
        ...

    def expect(self, names: Sequence[str]) -> None:
        """Says that these shards are wanted soon, in this order."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder of tars with or without a manifest, or one tar."""

    path: Path

    def manifest(self) -> tuple[list[str], list[int]]:
        """What the manifest says; without one, every tar's headers are read."""
        file = self.path / MANIFEST
        if file.exists():
            return read_manifest(str(file), file.read_bytes())
        tars = sorted(self.path.glob("*.tar")) if self.path.is_dir() else [self.path]
        return [tar.name for tar in tars], [len(index_tar(tar)) for tar in tars]

    def local(self, name: str) -> Path:
        return self.path / name if self.path.is_dir() else self.path

    def expect(self, names: Sequence[str]) -> None:
        """There is nothing to do."""


class TarShards:
    """All samples of a folder of tars (or of one tar), numbered in the order of the manifest. Can be pickled.

    The numbers are the manifest's, as counting would mean to read every shard. Of a shard that is whole and has fewer
    samples than it says, the others are passed over; of one that has more, those are never met; a line tells of it.
    """

    def __init__(self, folder: ShardFolder | Path) -> None:
        """`folder`: a path is a local one. DataError if it has no samples."""
        self._folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._most_open = OPEN_SHARDS
        self._told: set[str] = set()
        self._expected: tuple[int, ...] = ()
        self._names, self.sizes = self._folder.manifest()
        self._ends = list(accumulate(self.sizes))
        self.size = self._ends[-1] if self._ends else 0
        if not self.size:
            raise DataError(f"{folder}: no samples; a folder of tars with a {MANIFEST}, or a tar, is expected")

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens files of its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def sample(self, index: int) -> TarSample:
        """Sample `index` of all. DataError if its shard is not whole, or empty; else as `OpenShard.sample`."""
        number = bisect_right(self._ends, index)
        return self._shard(number).sample(index - (self._ends[number] - self.sizes[number]))

    def expect(self, shards: Sequence[int]) -> None:
        """Says that samples of these shards are wanted soon: they are fetched where they have to be."""
        if tuple(shards) != self._expected:
            self._expected = tuple(shards)
            self._most_open = max(OPEN_SHARDS, 2 * len(shards))
            self._folder.expect([self._names[number] for number in shards])

    def _shard(self, number: int) -> OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = OpenShard(self._folder.local(self._names[number]))
        self._check_size(shard, self.sizes[number])
        self._open[number] = shard
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)[1].close()
        return shard

    def _check_size(self, shard: OpenShard, promised: int) -> None:
        """DataError if a shard has no samples; a line on stderr, once, if it has another number than was promised."""
        count = len(shard.index)
        if not count:
            raise DataError(f"{shard.path}: no samples; its {MANIFEST} says {promised}")
        if count != promised and shard.path.name not in self._told:
            self._told.add(shard.path.name)
            print(f"{shard.path}: {count} samples; its {MANIFEST} says {promised}; write it anew", file=sys.stderr)
