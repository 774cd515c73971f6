"""Samples of webdataset tars, read by offset: folders of shards first, then one tar, its manifest and its index.

webdataset itself reads tars as streams, from the start; a resumed run would have to read all that it had seen.
"""

import json
import os
import re
import stat
import sys
import weakref
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from stages.data.sample import AbsentSampleError, BadSampleError
from stages.errors import DataError
from stages.files import read_regular

OPEN_SHARDS = 64


class ShardFolder(Protocol):
    """A place with shards: a local folder, or an address (`stages.data.remote`)."""

    def load_manifest(self) -> tuple[list[str], list[int]]:
        """Names of the shards, and the samples that each is said to have."""
        ...

    def fetch_local(self, name: str) -> Path:
        """The shard as a local file, which may be removed once it is open; DataError if it cannot be fetched."""
        ...

    def prefetch(self, names: Sequence[str]) -> None:
        """Starts to fetch these shards, in this order, where that takes time."""
        ...


class TarShards:
    """All samples of a folder of tars (or of one tar), numbered in the order of the manifest. Can be pickled.

    The numbers are the manifest's, as counting would mean to read every shard. Of a shard that is whole and has fewer
    samples than it says, the others are skipped; of one that has more, those are never read; a line on stderr says so.
    """

    def __init__(self, folder: ShardFolder | Path) -> None:
        """`folder`: a path is a local one. DataError if it has no samples."""
        self._folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._most_open = OPEN_SHARDS
        self._reported: set[str] = set()
        self._expected: tuple[int, ...] = ()
        self._names, self.sizes = self._folder.load_manifest()
        self._ends = list(accumulate(self.sizes))
        self.size = self._ends[-1] if self._ends else 0
        if not self.size:
            raise DataError(f"{folder}: no samples; a folder of tars with a {MANIFEST}, or a tar, is expected")

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens files of its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def find_sample(self, index: int) -> "TarSample":
        """Sample `index` of all. DataError if its shard is not whole, or empty; else as `OpenShard.find_sample`."""
        number = bisect_right(self._ends, index)
        return self._shard(number).find_sample(index - (self._ends[number] - self.sizes[number]))

    def prefetch(self, shards: Sequence[int]) -> None:
        """Starts to fetch these shards, where that takes time."""
        if tuple(shards) != self._expected:
            self._expected = tuple(shards)
            self._most_open = max(OPEN_SHARDS, 2 * len(shards))
            self._folder.prefetch([self._names[number] for number in shards])

    def _shard(self, number: int) -> "OpenShard":
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = OpenShard(self._folder.fetch_local(self._names[number]))
        self._check_size(shard, self.sizes[number])
        self._open[number] = shard
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)[1].close()
        return shard

    def _check_size(self, shard: "OpenShard", promised: int) -> None:
        """DataError if a shard has no samples; a line on stderr, once, if samples are missing or too many."""
        count = len(shard.index)
        if not count:
            raise DataError(f"{shard.path}: no samples; its {MANIFEST} says {promised}")
        remarks = [] if count == promised else [f"{count} samples; its {MANIFEST} says {promised}; write it again"]
        if shard.index.hard_links:
            remarks.append(f"{len(shard.index.hard_links)} hard links are not read; {WRITE_WITHOUT_LINKS}")
        if remarks and shard.path.name not in self._reported:
            self._reported.add(shard.path.name)
            for remark in remarks:
                print(f"{shard.path}: {remark}", file=sys.stderr)


@dataclass(frozen=True)
class LocalFolder:
    """A folder of tars with or without a manifest, some of them, or one tar."""

    path: Path
    names: Sequence[str] = ()
    """The tars that are meant, in their order; empty: all that the manifest names or, without one, that are there."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Samples of tars that are known from elsewhere."""

    def load_manifest(self) -> tuple[list[str], list[int]]:
        """What the manifest says; where there is none, or it does not name a tar, the tar's headers are read."""
        file = self.path / MANIFEST
        if self.names:
            known = dict(self.counts)
            if set(self.names) - known.keys() and file.exists():
                known = dict(zip(*read_manifest(str(file), file.read_bytes()), strict=True)) | known
            counts = [known[name] if name in known else len(index_tar(self.path / name)) for name in self.names]
            return list(self.names), counts
        if file.exists():
            return read_manifest(str(file), read_regular(file))
        tars = list_tars(self.path)
        if self.path.is_dir() and (unread := list_compressed_tars(self.path)):
            message = f"{self.path}: {format_names(unread)} not read: {UNPACK_TARS}"
            if not tars:
                raise DataError(message)
            print(message, file=sys.stderr)
        return [tar.name for tar in tars], [len(index_tar(tar)) for tar in tars]

    def fetch_local(self, name: str) -> Path:
        return self.path / name if self.path.is_dir() else self.path

    def prefetch(self, names: Sequence[str]) -> None:
        """There is nothing to do."""


COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4")
UNPACK_TARS = "samples are read by their place in a plain tar; decompress it (gunzip, zstd -d, xz -d)"


def list_compressed_tars(folder: Path) -> list[str]:
    """Names of tars in a folder that are compressed, which a training does not read."""
    return sorted(each.name for each in folder.iterdir() if each.name.lower().endswith(COMPRESSED_TARS))


def format_names(names: Sequence[str]) -> str:
    """The first of them, and how many more there are: `a.tar.gz and 3 more are`."""
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"


def list_tars(path: Path) -> list[Path]:
    """The tars of a folder in the order of their names, or the one tar. Hidden files (`._x.tar` of macOS) are none."""
    return sorted(tar for tar in path.glob("*.tar") if tar.name[0] != ".") if path.is_dir() else [path]


MAX_MEMBER_BYTES = 1 << 28
"""A larger member is a bad sample."""


class OpenShard:
    """One tar file, open for reading as long as the object is there."""

    def __init__(self, path: Path) -> None:
        """DataError if it is no whole tar."""
        self.path = path
        self._descriptor = open_tar(path)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.index = read_index(path, self._descriptor)

    def find_sample(self, number: int) -> "TarSample":
        """Sample `number`. AbsentSampleError if there are fewer; BadSampleError if its key is not its own."""
        if number >= len(self.index):
            raise AbsentSampleError(f"{self.path.name}: sample {number} of {len(self.index)}")
        where = f"{self.path.name}: {self.index.keys[number]}"
        if number in self.index.repeated:
            raise BadSampleError(f"{where}: a member of that name is there twice")
        return TarSample(where, self.index.list_extensions(number), self, number)

    def read_member(self, number: int, extension: str) -> bytes:
        """The content of one member of sample `number`; see `read_member_content`."""
        member, key = self.index.find_member(number, extension), self.index.keys[number]
        return read_member_content(self.path, self._descriptor, member, f"{self.path.name}: {key}: {extension}")


@dataclass(frozen=True, slots=True)
class TarSample:
    """Members that share a key: `abc.jpg`, `abc.txt`, `abc.json` are one sample. Each is read when asked for."""

    where: str
    """Shard and key, for messages."""
    extensions: tuple[str, ...]
    """In lower case (`jpg`, `json.gz`)."""
    shard: OpenShard
    number: int

    def read(self, extension: str) -> bytes:
        """The content of one of its members."""
        return self.shard.read_member(self.number, extension)


# open_lm's manifest.jsonl: a line for each shard, `{"shard": "00000000", "num_sequences": 100}`.

MANIFEST = "manifest.jsonl"


def read_manifest(where: str, content: bytes, *, places: bool = False) -> tuple[list[str], list[int]]:
    """File names of the shards and their sizes. DataError names the line that is wrong.

    Older manifests say `num_chunks`. A name is that of a file in the manifest's own folder, with or without `.tar`.
    `places`: a name may also be an absolute path or an address, as in a manifest that a user names by itself.
    """
    names, counts = [], []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            name, count = record["shard"], record["num_sequences" if "num_sequences" in record else "num_chunks"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f'{where}:{number}: a line like {{"shard": "00000000", "num_sequences": 100}}') from error
        if not (is_plain_name(name) or (places and is_place(name))) or type(count) is not int or count < 0:
            raise DataError(f"{where}:{number}: shard {name!r} with {count!r} samples: a plain name and a number")
        names.append(name if name.endswith(".tar") else f"{name}.tar")
        counts.append(count)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: shard {twice!r} is named twice")
    return names, counts


def read_listed_places(manifest: Path) -> dict[str, int]:
    """Paths and addresses of the shards that a manifest of this machine names, and samples. DataError; OSError."""
    names, counts = read_manifest(str(manifest), manifest.read_bytes(), places=True)
    places = [name if "/" in name else str(manifest.parent / name) for name in names]
    return dict(zip(places, counts, strict=True))


def is_plain_name(name: object) -> bool:
    """Whether `name` is that of a file in a folder: no path, nothing hidden, nothing that an address could mean."""
    return isinstance(name, str) and name.isprintable() and name[:1] not in {"", "."} and not set(name) & set("/\\:*?[")


def is_place(name: object) -> bool:
    """Whether `name` is a printable absolute path, or an address."""
    return isinstance(name, str) and name.isprintable() and (name.startswith("/") or "://" in name)


# Where a tar's samples lie in it: an index of its headers. Nothing is unpacked, so a member's name is never a path.
#
# A tar is whole, or it is refused: every header's checksum holds, every number is one, every member's content lies
# within the file, the end-of-archive mark is there, and nothing but zeros is behind it. Python's tarfile takes a torn
# header for the end, stops at the first zero block whatever follows, and needs several times as long.

BLOCK = 512
REGULAR = b"\0" + b"07"
HARD_LINK = b"1"
WITHOUT_CONTENT = b"123456"
"""Types of links, devices, folders and pipes."""
EXTENDED, GLOBAL, LONG_NAME, PREFIX_HEADERS = b"xX", b"g", b"L", b"xXLKg"
"""What stands before a header and adds to it: pax records (`X` is Solaris's), those for all that follows, GNU's long
names."""
NAME_AND_SIZE = frozenset(("path", "size"))
SPARSE = "GNU.sparse."
"""Keys of pax records, of three versions of GNU tar, by which a file with holes is written without them."""
REFUSED = {b"S": "a sparse file; write the tar without --sparse", b"M": "the rest of a file; join the tar's volumes"}
MAX_HEADER_BYTES = 1 << 20
"""A tar with longer pax records or names is refused."""
WRITE_WITHOUT_LINKS = "webdataset passes over them too; write the tar with --hard-dereference"


class TarMember(NamedTuple):
    """Where a member's content lies in the tar, in bytes."""

    offset: int
    size: int


@dataclass(slots=True)
class TarIndex:
    """The samples of a tar as webdataset counts them: neighbours that share a key are one sample.

    A key that comes again after another is another sample. It takes about a hundred bytes a member.
    """

    # Why: docs/decisions.md, D136
    keys: list[str] = field(default_factory=list)
    repeated: set[int] = field(default_factory=set)
    """Numbers of samples with two members of one name, at which webdataset stops."""
    hard_links: list[str] = field(default_factory=list)
    """Names of members that are hard links, which are not read."""
    _extensions: list[tuple[str, ...]] = field(default_factory=list)
    _firsts: "array[int]" = field(default_factory=lambda: array("q"))
    _offsets: "array[int]" = field(default_factory=lambda: array("q"))
    _sizes: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.keys)

    def list_extensions(self, number: int) -> tuple[str, ...]:
        """Of sample `number`, in lower case (`jpg`, `json.gz`)."""
        return self._extensions[number]

    def find_member(self, number: int, extension: str) -> TarMember:
        """A member of sample `number`; ValueError if it has none of that extension."""
        place = self._firsts[number] + self._extensions[number].index(extension)
        return TarMember(self._offsets[place], self._sizes[place])

    def add(self, key: str, members: dict[str, TarMember], shared: dict[tuple[str, ...], tuple[str, ...]]) -> None:
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


def read_tar_member(path: Path, member: TarMember, where: str) -> bytes:
    """The content of a member of a tar that is opened for this alone; see `read_member_content`."""
    descriptor = open_tar(path)
    try:
        return read_member_content(path, descriptor, member, where)
    finally:
        os.close(descriptor)


def read_member_content(path: Path, descriptor: int, member: TarMember, where: str) -> bytes:
    """A member's bytes. BadSampleError, naming `where`, if it is too large; DataError if the file ends before."""
    if member.size > MAX_MEMBER_BYTES:
        raise BadSampleError(f"{where} has more than {MAX_MEMBER_BYTES} bytes")
    content = os.pread(descriptor, member.size, member.offset)
    if len(content) != member.size:
        raise DataError(f"{path}: cut off in {where}: {member.size} bytes expected, {len(content)} there")
    return content


def open_tar(path: Path) -> int:
    """A descriptor for reading; DataError if the file cannot be opened."""
    try:
        # a pipe of that name would be waited on for ever; on a file O_NONBLOCK has no effect
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(f"{path}: not a readable tar: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path}: not a readable tar: not a file")
    return descriptor


def read_index(path: Path, descriptor: int) -> TarIndex:
    """The index of an open tar; `path` is for messages."""
    index, shared = TarIndex(), dict[tuple[str, ...], tuple[str, ...]]()
    key, members = "", dict[str, TarMember]()
    for name, member in iter_members(path, descriptor):
        split = split_member_name(name)
        if split is None:
            continue
        if member is None:
            index.hard_links.append(name)
            continue
        if members and split[0] != key:
            index.add(key, members, shared)
            members = {}
        key = split[0]
        if split[1] in members:
            index.repeated.add(len(index))
        else:
            members[split[1]] = member
    if members:
        index.add(key, members, shared)
    return index


def split_member_name(name: str) -> tuple[str, str] | None:
    """webdataset's rule for (key, extension in lower case); None for a member that it passes over.

    The extension begins at the first dot of the last path component. Without a dot, or with nothing before it
    (`README`, `.DS_Store`), a file is passed over, and so are notes such as `__index__` and what is in `__notes__/`.
    """
    if name.startswith("__") and name.partition("/")[0].endswith("__") and len(name.partition("/")[0]) > 3:
        return None
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    # With nothing before the dot, webdataset takes the folder's last component for the stem, if it has no dot itself.
    if not dot or not (stem or (slash and "." not in folder.rpartition("/")[2])):
        return None
    return folder + slash + stem, extension.lower()


# Why: docs/decisions.md, D12
def iter_members(path: Path, descriptor: int) -> Iterator[tuple[str, TarMember | None]]:
    """(name, where its content lies) of a tar's regular files, and (name, None) of its hard links.

    DataError once the tar turns out not to be whole.
    """
    end, offset = os.fstat(descriptor).st_size, 0
    given: dict[str, str] = {}  # what a header's forerunners say of it
    alone = False  # a forerunner whose header has not come yet
    while any(block := os.pread(descriptor, BLOCK, offset)):
        header = parse_header(path, block, offset)
        prefix = header.kind in PREFIX_HEADERS
        size = parse_pax_size(path, given["size"], offset) if "size" in given and not prefix else header.size
        start, size = offset + BLOCK, 0 if header.kind in WITHOUT_CONTENT else size
        if start + size > end:
            raise DataError(f"{path}: cut off: it ends in {given.get('path', header.name)!r}; copy it again")
        if prefix:
            found = read_prefix_header(path, descriptor, header.kind, TarMember(start, size))
            # programs disagree which of two counts, and nobody writes two
            # Why: docs/decisions.md, D159
            if twice := sorted(found.keys() & given.keys() & NAME_AND_SIZE):
                raise DataError(
                    f"{path}: not a whole tar: a second {twice[0]} of one file at byte {offset}; write it again"
                )
            given, alone = given | found, True
        elif header.kind in REFUSED or any(key.startswith(SPARSE) for key in given):
            raise DataError(f"{path}: {header.name!r} is {REFUSED.get(header.kind, REFUSED[b'S'])}")
        else:
            name, given, alone = given.get("path", header.name), {}, False
            if header.kind == HARD_LINK:
                yield name, None
            elif header.kind in REGULAR and not (name.endswith("/") or header.is_old_folder):
                yield name, TarMember(start, size)
            elif header.kind in REGULAR and size:
                raise DataError(f"{path}: not a whole tar: folder {name!r} has {size} bytes; write it again")
        offset = start + -(-size // BLOCK) * BLOCK
    if alone and not any(block):
        raise DataError(f"{path}: cut off: it ends in the header before {given.get('path', 'a file')!r}; copy it again")
    if len(block) < BLOCK:
        raise DataError(f"{path}: cut off: the mark of the tar's end is missing; copy it again")
    check_end(path, descriptor, offset)


READ_BYTES = 1 << 20


def check_end(path: Path, descriptor: int, offset: int) -> None:
    """DataError if anything but zeros follows the mark of the tar's end at `offset`: samples would lie there unseen."""
    while chunk := os.pread(descriptor, READ_BYTES, offset):
        if rest := chunk.lstrip(b"\0"):
            raise DataError(
                f"{path}: more follows its end, at byte {offset + len(chunk) - len(rest)}: two tars joined, or a"
                " damaged one; write it again as one tar"
            )
        offset += len(chunk)


class TarHeader(NamedTuple):
    """What is used of a member's header."""

    name: str
    size: int
    kind: bytes

    @property
    def is_old_folder(self) -> bool:
        """Before POSIX a slash behind the name said so; a pax header before it may give the name without."""
        return self.kind == b"\0" and self.name.endswith("/")


def parse_header(path: Path, block: bytes, offset: int) -> TarHeader:
    """A header block (POSIX ustar, pax or GNU); DataError if its checksum does not hold."""
    try:
        if len(block) < BLOCK or sum(block) - sum(block[148:156]) + 8 * ord(" ") != parse_octal(block[148:156]):
            raise ValueError("checksum")
        name, size, kind = parse_name(block[:100]), parse_octal(block[124:136]), block[156:157]
    except ValueError as error:
        raise DataError(f"{path}: not a whole tar: no header at byte {offset}; copy it again") from error
    prefix = parse_name(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return TarHeader(f"{prefix}/{name}" if prefix else name, size, kind)


def parse_octal(content: bytes) -> int:
    """A number of a header, never negative: octal digits, or behind a set first bit (GNU, beyond 8 GiB) plain bytes.

    ValueError if it is neither.
    """
    if content[0] == 0x80:
        return int.from_bytes(content[1:])
    digits = content.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):  # Python's int() takes signs and underscores as well
        raise ValueError("not octal")
    return int(digits or b"0", 8)


def parse_pax_size(path: Path, digits: str, offset: int) -> int:
    """A size from pax records; DataError if it is no number that a file can have."""
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise DataError(f"{path}: not a whole tar: the size before byte {offset} is no number; copy it again")
    return int(digits)


def parse_name(content: bytes) -> str:
    """A name, which ends at the first zero byte. Bytes that are no UTF-8 are escaped, so that names stay different."""
    return content.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def read_prefix_header(path: Path, descriptor: int, kind: bytes, place: TarMember) -> dict[str, str]:
    """What a forerunner says of the header after it: `path`, `size` and others. DataError if it is malformed."""
    if place.size > MAX_HEADER_BYTES:
        raise DataError(f"{path}: a header at byte {place.offset} has more than {MAX_HEADER_BYTES} bytes")
    content = os.pread(descriptor, place.size, place.offset)
    if kind == LONG_NAME:
        behind = os.pread(descriptor, -place.size % BLOCK, place.offset + place.size)
        if behind.strip(b"\0"):  # the name goes on: cut short it would be another sample's, or none
            raise DataError(f"{path}: not a whole tar: the name at byte {place.offset} is longer than its header says")
        return {"path": parse_name(content)}
    if kind not in EXTENDED + GLOBAL:
        return {}
    try:
        records = parse_pax_records(content)
    except ValueError as error:
        raise DataError(f"{path}: not a whole tar: a malformed header at byte {place.offset}; copy it again") from error
    if kind in EXTENDED:
        return {**records, "path": records["path"].rstrip("/")} if "path" in records else records
    if records.keys() & NAME_AND_SIZE or any(key.startswith(SPARSE) for key in records):
        raise DataError(f"{path}: the global header at byte {place.offset} gives all members one name or size")
    return {}


PAX_RECORD = re.compile(rb"([0-9]{1,9}) ([^=]+)=")


def parse_pax_records(content: bytes) -> dict[str, str]:
    """Records `LENGTH KEY=VALUE\\n` of an extended header, which may end in zeros; ValueError if one is malformed."""
    records: dict[str, str] = {}
    start = 0
    while start < len(content) and content[start]:
        match = PAX_RECORD.match(content, start)
        end = start + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError("malformed record")
        value = content[match.end() : end - 1]
        records[match[2].decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        start = end
    return records
