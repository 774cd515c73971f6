"""Packs: what one process adds to a feature store. A data file, and an index with a line for each of its entries.

    NAME.features   entries of equal size, one after the other: the raw numbers of an image's features
    NAME.index      {"image": SHA-256 of the image file, "offset": BYTES, "crc32": NUMBER}, one a line, in ASCII

Both only grow, and have one writer. A line follows its data, so that a writer may be killed at any moment: a torn last
line is no line, and data without a line are no entry. A machine that lost power may have a line and not its data; then
the checksum does not hold.
"""

import json
import os
import re
import secrets
import socket
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INDEX, FEATURES = ".index", ".features"
DIGEST = re.compile(r"[0-9a-f]{64}")


class DamagedEntryError(Exception):
    """An entry's data are not those that were written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an image's features lie in a pack."""

    digest: str
    offset: int
    crc32: int


class PackReader:
    """A pack of any writer, perhaps still growing."""

    def __init__(self, index: Path, entry_bytes: int) -> None:
        self.index, self.entry_bytes = index, entry_bytes
        self._read_to = 0
        self._descriptor = -1

    def new_entries(self) -> Iterator[Entry]:
        """Those since the last call. OSError if the file cannot be read."""
        with self.index.open("rb") as file:
            file.seek(self._read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            if entry := parsed_entry(line):
                yield entry

    def read(self, entry: Entry) -> bytearray:
        """An entry's data. DamagedEntryError if they are cut off or changed; OSError."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.index.with_suffix(FEATURES), os.O_RDONLY)
        content = bytearray(self.entry_bytes)
        count = os.preadv(self._descriptor, [content], entry.offset)
        if count != self.entry_bytes or zlib.crc32(content) != entry.crc32:
            raise DamagedEntryError(f"{self.index.with_suffix(FEATURES)}: damaged at byte {entry.offset}")
        return content


def parsed_entry(line: bytes) -> Entry | None:
    """A line of an index; None if it is none."""
    try:
        record = json.loads(line)
        digest, offset, crc32 = record["image"], record["offset"], record["crc32"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (
        isinstance(digest, str) and DIGEST.fullmatch(digest) and type(offset) is type(crc32) is int and offset >= 0
    ):
        return None
    return Entry(digest, offset, crc32)


class PackWriter:
    """A new pack in a folder, under a name that no other process has. Each method raises OSError."""

    def __init__(self, folder: Path) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
        self.index = folder / f"{host}-{os.getpid()}-{secrets.token_hex(4)}{INDEX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._features = os.open(self.index.with_suffix(FEATURES), flags, 0o666)
        self._index = os.open(self.index, flags, 0o666)
        self._size = 0

    def add(self, digest: str, content: memoryview) -> None:
        """Appends an entry. After an OSError the pack must not be written any more: its end may be torn."""
        write_all(self._features, content)
        record = {"image": digest, "offset": self._size, "crc32": zlib.crc32(content)}
        self._size += len(content)
        write_all(self._index, memoryview(json.dumps(record).encode() + b"\n"))

    def close(self) -> None:
        """Waits until all is on the disk."""
        for descriptor in (self._features, self._index):
            os.fsync(descriptor)
            os.close(descriptor)


def write_all(descriptor: int, content: memoryview) -> None:
    """os.write may take less than it is given, as it does when a disk fills up."""
    while content:
        content = content[os.write(descriptor, content) :]
