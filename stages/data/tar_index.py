"""Where a tar's samples lie in it: an index of its headers. Nothing is unpacked, so a member's name is never a path.

A tar is whole, or it is refused: every header's checksum holds, every member's content lies within the file, and the
end-of-archive mark is there. Python's tarfile takes a torn header for the end, and needs several times as long.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stages.errors import DataError

BLOCK = 512
REGULAR = b"\0" + b"07"
WITHOUT_CONTENT = b"123456"
"""Types of links, devices, folders and pipes."""
EXTENDED, LONG_NAME, FORERUNNERS, SPARSE = b"x", b"L", b"xLKg", b"S"
"""What stands before a header and adds to it: pax records, GNU's long names, and what is passed over; sparse files."""
MAX_HEADER_BYTES = 1 << 20
"""Of pax records and long names, what lies beyond it is not read."""


class Member(NamedTuple):
    """Where a member's content lies in the tar, in bytes."""

    offset: int
    size: int


@dataclass(slots=True)
class TarIndex:
    """The samples of a tar, in the order of their first members: members that share a key are one sample.

    A second member of the same name begins another sample of that key, and both are `repeated`. It takes about a
    hundred bytes a member.
    """

    keys: list[str] = field(default_factory=list)
    repeated: set[int] = field(default_factory=set)
    """Numbers of samples whose key is that of another."""
    _extensions: list[tuple[str, ...]] = field(default_factory=list)
    _firsts: "array[int]" = field(default_factory=lambda: array("q"))
    _offsets: "array[int]" = field(default_factory=lambda: array("q"))
    _sizes: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.keys)

    def extensions(self, number: int) -> tuple[str, ...]:
        """Those of sample `number`, in small letters (`jpg`, `json.gz`)."""
        return self._extensions[number]

    def member(self, number: int, extension: str) -> Member:
        """A member of sample `number`; ValueError if it has none of that extension."""
        place = self._firsts[number] + self._extensions[number].index(extension)
        return Member(self._offsets[place], self._sizes[place])

    def add(self, key: str, members: dict[str, Member], shared: dict[tuple[str, ...], tuple[str, ...]]) -> None:
        """Another sample; `shared` holds the sets of extensions met so far, which most samples have in common."""
        extensions = tuple(members)
        self.keys.append(key)
        self._extensions.append(shared.setdefault(extensions, extensions))
        self._firsts.append(len(self._offsets))
        self._offsets.extend(member.offset for member in members.values())
        self._sizes.extend(member.size for member in members.values())


def index_tar(path: Path) -> TarIndex:
    """The index of a tar; only headers are read. DataError, naming the file, if it is no whole tar."""
    descriptor = open_tar(path)
    try:
        return read_index(path, descriptor)
    finally:
        os.close(descriptor)


def open_tar(path: Path) -> int:
    """A descriptor for reading; DataError if the file cannot be opened."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path}: not a readable tar: {error.strerror}") from error


def read_index(path: Path, descriptor: int) -> TarIndex:
    """The index of an open tar; `path` is for messages."""
    samples: list[tuple[str, dict[str, Member]]] = []
    latest: dict[str, int] = {}
    index = TarIndex()
    for name, member in read_members(path, descriptor):
        key, extension = split_member_name(name)
        number = latest.get(key)
        if number is not None and extension in samples[number][1]:
            index.repeated |= {number, len(samples)}
            number = None
        if number is None:
            number = latest[key] = len(samples)
            samples.append((key, {}))
        samples[number][1][extension] = member
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for key, members in samples:
        index.add(key, members, shared)
    return index


def split_member_name(name: str) -> tuple[str, str]:
    """webdataset's rule: the extension begins at the first dot of the last path component."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def read_members(path: Path, descriptor: int) -> Iterator[tuple[str, Member]]:
    """(name, where its content lies) of a tar's regular files; DataError once it turns out not to be whole."""
    end, offset = os.fstat(descriptor).st_size, 0
    given: dict[str, str] = {}  # what a header's forerunners say of it
    while any(block := os.pread(descriptor, BLOCK, offset)):
        header = parse_header(path, block, offset)
        size = int(given["size"]) if given.get("size", "").isdecimal() else header.size
        start, size = offset + BLOCK, 0 if header.kind in WITHOUT_CONTENT else size
        if start + size > end:
            raise DataError(f"{path}: cut off: it ends in {given.get('path', header.name)!r}; copy it again")
        offset = start + -(-size // BLOCK) * BLOCK
        if header.kind in FORERUNNERS:
            given |= added_header(header.kind, os.pread(descriptor, min(size, MAX_HEADER_BYTES), start))
            continue
        if header.kind == SPARSE or "GNU.sparse.major" in given:
            raise DataError(f"{path}: {header.name!r} is a sparse file; write the tar without --sparse")
        name = given.get("path", header.name)
        if header.kind in REGULAR and not name.endswith("/"):
            yield name, Member(start, size)
        given = {}
    if len(block) < BLOCK:
        raise DataError(f"{path}: cut off: the mark of the tar's end is missing; copy it again")


class Header(NamedTuple):
    """What is used of a member's header."""

    name: str
    size: int
    kind: bytes


def parse_header(path: Path, block: bytes, offset: int) -> Header:
    """A header block (POSIX ustar, pax or GNU); DataError if its checksum does not hold."""
    try:
        if len(block) < BLOCK or sum(block) - sum(block[148:156]) + 8 * ord(" ") != octal(block[148:156]):
            raise ValueError("checksum")
        name, size, kind = text(block[:100]), octal(block[124:136]), block[156:157]
    except ValueError as error:
        raise DataError(f"{path}: not a whole tar: no header at byte {offset}; copy it again") from error
    prefix = text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return Header(f"{prefix}/{name}" if prefix else name, size, kind)


def octal(digits: bytes) -> int:
    """A number of a header: octal digits, or behind a set first bit (GNU, beyond 8 GiB) plain bytes."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:])
    return int(digits.rstrip(b" \0") or b"0", 8)


def text(content: bytes) -> str:
    """A name, which ends at the first zero byte."""
    return content.partition(b"\0")[0].decode("utf-8", "replace")


def added_header(kind: bytes, content: bytes) -> dict[str, str]:
    """What a forerunner says of the header after it: `path`, `size` and others."""
    if kind == LONG_NAME:
        return {"path": text(content)}
    return pax_records(content) if kind == EXTENDED else {}


def pax_records(content: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of an extended header, up to the first that is malformed."""
    records: dict[str, str] = {}
    while (length := content.partition(b" ")[0]).isdigit() and int(length):
        record, content = content[: int(length)], content[int(length) :]
        key, _, value = record.partition(b" ")[2].rstrip(b"\n").partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return records
