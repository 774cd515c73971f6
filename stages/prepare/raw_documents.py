"""The documents of a span as bytes: lines, runs of lines between empty ones, or the whole file."""

from collections.abc import Iterator

from stages.prepare.inputs import Span, TextRule
from stages.prepare.lines import BYTE_ORDER_MARK, MAX_LINE_BYTES, opened, span_lines

Raw = tuple[int, int, bytes | None]
"""Number of its first line, from 0 at the span's first; that line's first byte in the file; content, None: too long."""


def raw_documents(span: Span, rule: TextRule) -> Iterator[Raw]:
    """The documents that begin within a span of a .jsonl or .txt file; a line without content is none."""
    if span.input.kind == "jsonl" or rule == "line":
        return _lines(span)
    return _paragraphs(span) if rule == "blank-line" else _whole(span)


def _is_within(at: int, span: Span) -> bool:
    """Whether the line that begins at byte `at` is this span's; all of a compressed file's are."""
    return bool(span.input.compression) or at < span.stop


def _lines(span: Span) -> Iterator[Raw]:
    with opened(span.input) as file:
        for number, (at, line) in enumerate(span_lines(file, span)):
            if not _is_within(at, span):
                return
            if line is None or line.strip():
                yield number, at, line


def _whole(span: Span) -> Iterator[Raw]:
    with opened(span.input) as file:
        content = file.read(MAX_LINE_BYTES + 1)
    if content:
        yield 0, 0, content.removeprefix(BYTE_ORDER_MARK) if len(content) <= MAX_LINE_BYTES else None


def _paragraphs(span: Span) -> Iterator[Raw]:
    """One that begins in the span before is that span's; the last one is read beyond the end of its span."""
    with opened(span.input) as file:
        is_mine, begin, parts, size = True, (0, 0), list[bytes](), 0
        for number, (at, line) in enumerate(span_lines(file, span)):
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
