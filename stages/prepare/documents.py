"""The documents of a piece of the inputs."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import zstandard

from stages.errors import DataError
from stages.prepare.inputs import Input, Piece, Span, TextRule

# Lines that are no document: counted, shown with their place, and refused beyond a limit.

EXAMPLES = 20


class BadLineError(ValueError):
    """A line, or row, that is no document; the message says why."""


@dataclass(slots=True)
class BadLines:
    """The bad lines of one piece."""

    limit: int
    count: int = 0
    examples: list[str] = field(default_factory=list)
    """`FILE:LINE: why`, the first of them."""

    def note(self, where: str, reason: str) -> None:
        """DataError beyond the limit."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{where}: {reason}")
        check_bad_lines(self.count, self.limit, self.examples)


def check_bad_lines(count: int, limit: int, examples: list[str]) -> None:
    """DataError if there are more bad lines than the limit; it shows the last example."""
    if count > limit:
        raise DataError(
            f"{examples[-1]}; with it {count} bad lines, the limit is {limit}; mend the input, name another field with "
            "--field, or allow more with --bad-limit"
        )


# A zstd file as a stream of bytes that knows a cut-off file from a whole one.

ZSTD_CHUNK = 1 << 13
"""Compressed bytes taken at once. Small, as 4 of them can stand for 128 KiB."""
WINDOW = 1 << 31
"""Of `zstd --long=31`, the largest there is."""


class ZstdFile(io.RawIOBase):
    """All frames of a file one after the other; EOFError if the last one is unfinished.

    zstandard's own reader takes the end of the file for the end of the data, frame or no frame.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        while not self._ready:
            self._compressed = self._compressed or self._file.read(ZSTD_CHUNK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends within a zstd frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready = self._frame.decompress(self._compressed)
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


# Lines of plain and compressed files, also of a part of a file, none longer than a limit.

MAX_LINE_BYTES = 1 << 26
"""A longer line, or text file that is one document, is a bad one: it would have to be in memory whole."""
LINE_CHUNK = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def open_input(given: Input) -> Iterator[BinaryIO]:
    """An input, decompressed, from its beginning. DataError if its compressed stream is damaged or cut off."""
    damages: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    if given.compression == "zst":
        import zstandard

        damages = (EOFError, zstandard.ZstdError)
    try:
        with open(given.path, "rb") as file:  # noqa: PTH123 - a path is text here, as it is in the settings
            yield _decompressed(file, given.compression)
    except damages as error:
        raise DataError(f"{given.path}: cut off or damaged: {error}; get the file again, or leave it out") from error


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if compression == "zst":
        return cast("BinaryIO", io.BufferedReader(ZstdFile(file), LINE_CHUNK))
    return file


def iter_span_lines(file: BinaryIO, span: Span) -> Iterator[tuple[int, bytes | None]]:
    """(first byte, line without its end) of the lines that begin within a span and of those behind it.

    The reader stops where it wants to. None stands for a line of more than MAX_LINE_BYTES.
    """
    at = 0
    if span.start:
        file.seek(span.start - 1)
        at = span.start - 1 + _skip_line(file)  # the line that the byte before belongs to is another span's
    while line := file.readline(MAX_LINE_BYTES + 1):
        size = len(line)
        is_long = size > MAX_LINE_BYTES and not line.endswith(b"\n")
        if is_long:
            size += _skip_line(file)
        if at == 0:
            line = line.removeprefix(BYTE_ORDER_MARK)
        yield at, None if is_long else line.rstrip(b"\r\n")
        at += size


def _skip_line(file: BinaryIO) -> int:
    """Bytes up to the end of the line, which are read."""
    skipped = 0
    while part := file.readline(LINE_CHUNK):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def find_line_number(given: Input, at: int) -> int:
    """The number, from 1, of the line that begins at byte `at` of a plain file."""
    count = 1
    with open(given.path, "rb") as file:  # noqa: PTH123 - as above
        while at > 0 and (part := file.read(min(LINE_CHUNK, at))):
            count += part.count(b"\n")
            at -= len(part)
    return count


# The documents of a span as bytes: lines, runs of lines between empty ones, or the whole file.

Raw = tuple[int, int, bytes | None]
"""Number of its first line, from 0 at the span's first; that line's first byte in the file; content, None: too long."""


def iter_raw_documents(span: Span, rule: TextRule) -> Iterator[Raw]:
    """The documents that begin within a span of a .jsonl or .txt file; a line without content is none."""
    if span.input.kind == "jsonl" or rule == "line":
        return _lines(span)
    return _paragraphs(span) if rule == "blank-line" else _whole(span)


def _is_within(at: int, span: Span) -> bool:
    """Whether the line that begins at byte `at` is this span's; all of a compressed file's are."""
    return bool(span.input.compression) or at < span.stop


def _lines(span: Span) -> Iterator[Raw]:
    with open_input(span.input) as file:
        for number, (at, line) in enumerate(iter_span_lines(file, span)):
            if not _is_within(at, span):
                return
            if line is None or line.strip():
                yield number, at, line


def _whole(span: Span) -> Iterator[Raw]:
    with open_input(span.input) as file:
        content = file.read(MAX_LINE_BYTES + 1)
    if content:
        yield 0, 0, content.removeprefix(BYTE_ORDER_MARK) if len(content) <= MAX_LINE_BYTES else None


def _paragraphs(span: Span) -> Iterator[Raw]:
    """One that begins in the span before is that span's; the last one is read beyond the end of its span."""
    with open_input(span.input) as file:
        is_mine, begin, parts, size = True, (0, 0), list[bytes](), 0
        for number, (at, line) in enumerate(iter_span_lines(file, span)):
            if number == 0 and span.start:
                is_mine = _follows_an_empty_line(span, at)
            if line == b"" and parts:
                yield *begin, _joined(parts, size)
                parts, size = [], 0
            is_mine = is_mine or line == b""
            if not parts and not _is_within(at, span):
                return
            if line != b"" and is_mine:
                begin = begin if parts else (number, at)
                size += MAX_LINE_BYTES + 1 if line is None else len(line) + 1
                parts.append(line or b"" if size <= MAX_LINE_BYTES else b"")
        if parts:
            yield *begin, _joined(parts, size)


def _joined(parts: list[bytes], size: int) -> bytes | None:
    return b"\n".join(parts) if size <= MAX_LINE_BYTES else None


def _follows_an_empty_line(span: Span, at: int) -> bool:
    with open(span.input.path, "rb") as file:  # noqa: PTH123 - a path is text here, as it is in the settings
        file.seek(max(0, at - 3))
        before = file.read(min(3, at))
    return before.endswith((b"\n\n", b"\n\r\n")) or before in {b"\n", b"\r\n"}


@dataclass(slots=True)
class DocumentReader:
    """Reads documents; what is none goes to `bad`."""

    field: str
    """Key of a JSON object, or column, that holds the text."""
    rule: TextRule
    """What a document of a .txt file is."""
    bad: BadLines

    def read(self, piece: Piece) -> Iterator[str]:
        """Each document's text as it is, maybe empty. DataError: an input is damaged, or too many lines are bad."""
        for span in piece:
            yield from self._rows(span) if span.input.kind == "parquet" else self._texts(span)

    def _rows(self, span: Span) -> Iterator[str]:
        from stages.prepare.inputs import iter_rows

        for number, value in iter_rows(span.input.path, span.start, self.field):
            try:
                yield check_text(value)
            except BadLineError as error:
                self.bad.note(f"{span.input.path}:{number}", str(error))

    def _texts(self, span: Span) -> Iterator[str]:
        lines_before: int | None = None
        for number, at, content in iter_raw_documents(span, self.rule):
            try:
                yield parse_json_text(content, self.field) if span.input.kind == "jsonl" else decode_text(content)
            except BadLineError as error:
                if lines_before is None:  # counted once, and only where it is needed
                    lines_before = find_line_number(span.input, at) - number if span.start else 1
                self.bad.note(f"{span.input.path}:{lines_before + number}", str(error))


def parse_json_text(line: bytes | None, field: str) -> str:
    """The text of a line of JSON; BadLineError if it has none."""
    text = decode_text(line)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        one = "; the file is one JSON list? `jq -c .[]` makes JSON lines of it" if text.strip() in {"[", "{"} else ""
        raise BadLineError(f"not JSON: {error}{one}"[:200]) from error
    if not isinstance(record, dict):
        one = "; `jq -c .[]` makes JSON lines of a list" if isinstance(record, list) else ""
        raise BadLineError(f"an object a line is expected, not {type(record).__name__}{one}")
    if field not in record:
        raise BadLineError(f"no field {field!r}; it has {', '.join(record)[:120] or 'none'}")
    return check_text(record[field])


def check_text(value: object) -> str:
    """A text that can be encoded; BadLineError for other values and for half a surrogate pair."""
    if isinstance(value, bytes):
        return decode_text(value)
    if not isinstance(value, str):
        raise BadLineError(f"the text is no string but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"the text holds half a surrogate pair at character {error.start}") from error
    return value


def decode_text(content: bytes | None) -> str:
    """Bytes as UTF-8; BadLineError if they are not, or for the None of what is too long."""
    if content is None:
        raise BadLineError(f"longer than {MAX_LINE_BYTES >> 20} MiB; cut it (--txt blank-line or line for a text file)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadLineError(f"not UTF-8 at byte {error.start}") from error
