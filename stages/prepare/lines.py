"""Lines of plain and compressed files, also of a part of a file, none longer than a limit."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from stages.errors import DataError
from stages.prepare.inputs import Input, Span

MAX_LINE_BYTES = 1 << 26
"""A longer line, or text file that is one document, is a bad one: it would have to be in memory whole."""
LINE_CHUNK = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@contextmanager
def opened(given: Input) -> Iterator[BinaryIO]:
    """An input, decompressed, from its beginning. DataError if its compressed stream is damaged or cut off."""
    damages: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    if given.compression == "zst":
        import zstandard

        damages = (EOFError, zstandard.ZstdError)
    try:
        with open(given.path, "rb") as file:  # noqa: PTH123 - a path is text here, as it is in the settings
            yield _decompressed(file, given.compression)
    except damages as error:
        raise DataError(f"{given.path}: cut off or damaged: {error}; get the file anew, or leave it out") from error


def _decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    if compression == "gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if compression == "zst":
        from stages.prepare.zstd_file import ZstdFile

        return cast("BinaryIO", io.BufferedReader(ZstdFile(file), LINE_CHUNK))
    return file


def span_lines(file: BinaryIO, span: Span) -> Iterator[tuple[int, bytes | None]]:
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


def line_number(given: Input, at: int) -> int:
    """The number, from 1, of the line that begins at byte `at` of a plain file."""
    count = 1
    with open(given.path, "rb") as file:  # noqa: PTH123 - as above
        while at > 0 and (part := file.read(min(LINE_CHUNK, at))):
            count += part.count(b"\n")
            at -= len(part)
    return count
