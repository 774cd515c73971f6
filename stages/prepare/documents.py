"""The documents of a piece of the inputs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from stages.prepare.bad_lines import BadLineError, BadLines
from stages.prepare.inputs import Piece, Span, TextRule
from stages.prepare.lines import MAX_LINE_BYTES, line_number
from stages.prepare.raw_documents import raw_documents


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
        from stages.prepare.parquet import rows

        for number, value in rows(span.input.path, span.start, self.field):
            try:
                yield checked_text(value)
            except BadLineError as error:
                self.bad.note(f"{span.input.path}:{number}", str(error))

    def _texts(self, span: Span) -> Iterator[str]:
        lines_before: int | None = None
        for number, at, content in raw_documents(span, self.rule):
            try:
                yield json_text(content, self.field) if span.input.kind == "jsonl" else decoded(content)
            except BadLineError as error:
                if lines_before is None:  # counted once, and only where it is needed
                    lines_before = line_number(span.input, at) - number if span.start else 1
                self.bad.note(f"{span.input.path}:{lines_before + number}", str(error))


def json_text(line: bytes | None, field: str) -> str:
    """The text of a line of JSON; BadLineError if it has none."""
    text = decoded(line)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"not JSON: {error}"[:200]) from error
    if not isinstance(record, dict):
        raise BadLineError(f"an object a line is expected, not {type(record).__name__}")
    if field not in record:
        raise BadLineError(f"no field {field!r}; it has {', '.join(record)[:120] or 'none'}")
    return checked_text(record[field])


def checked_text(value: object) -> str:
    """A text that can be encoded; BadLineError for other values and for half a surrogate pair."""
    if isinstance(value, bytes):
        return decoded(value)
    if not isinstance(value, str):
        raise BadLineError(f"the text is no string but {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadLineError(f"the text holds half a surrogate pair at character {error.start}") from error
    return value


def decoded(content: bytes | None) -> str:
    """Bytes as UTF-8; BadLineError if they are not, or for the None of what is too long."""
    if content is None:
        raise BadLineError(f"longer than {MAX_LINE_BYTES >> 20} MiB; cut it (--txt blank-line or line for a text file)")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadLineError(f"not UTF-8 at byte {error.start}") from error
