"""Files of text to prepare, and their division into pieces that can be read apart.

How inputs are divided depends on their sizes alone, never on the number of workers: a piece's tokens are a function of
the inputs and the settings, so any number of workers gives the same bytes, and a finished piece stays finished.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.data.tokenizer import TextTokenizer
from stages.errors import ConfigError, DataError

# Texts of parquet files, a row group at a time. pyarrow comes with the extra `report`.

ROWS = 256


@contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """A pyarrow ParquetFile; DataError for a file that is none, ConfigError where pyarrow is missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{path}: parquet needs pyarrow; install the project with its extra `report`") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {' '.join(str(error).split())[:300]}") from error


def read_row_group_sizes(path: str) -> list[int]:
    """Bytes of each row group, as the file's footer gives them."""
    with open_parquet(path) as file:
        return [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]


def iter_rows(path: str, group: int, column: str) -> Iterator[tuple[int, object]]:
    """(row of the file, from 1; value) of one row group's column; bytes where a string is no UTF-8."""
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise DataError(f"{path}: no column {column!r}; it has {', '.join(names)[:200]}; name one with --field")
        number = sum(file.metadata.row_group(before).num_rows for before in range(group))
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False):
            for value in _values(batch.column(0)):
                number += 1
                yield number, value


def read_column_names(path: str) -> list[str]:
    """The columns of a parquet file."""
    with open_parquet(path) as file:
        return list(map(str, file.schema_arrow.names))


def iter_table_rows(path: str, first: int, count: int, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row of the file, from 0; values by column) of `count` rows from `first`; only their row groups are read."""
    with open_parquet(path) as file:
        start = 0
        for group in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if stop > first and start < first + count:
                number = start
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=list(columns), use_threads=False):
                    values = [_decode(_values(column), column) for column in map(batch.column, columns)]
                    for row in zip(*values, strict=True):
                        if first <= number < first + count:
                            yield number, dict(zip(columns, row, strict=True))
                        number += 1
            start = stop


def _decode(values: list[object], column: Any) -> list[object]:
    """Values of a column of strings again as strings, whatever their bytes; those of other columns as they are."""
    import pyarrow

    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
        return values
    return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values]


def _values(values: Any) -> list[object]:
    import pyarrow

    if pyarrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
        binary = pyarrow.binary() if pyarrow.types.is_string(values.type) else pyarrow.large_binary()
        values = values.cast(binary)  # pyarrow does not check that a file's strings are UTF-8; `decode_text` does
    return list(values.to_pylist())


Kind = Literal["jsonl", "txt", "parquet"]
TextRule = Literal["file", "blank-line", "line"]

KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".json": "jsonl", ".txt": "txt", ".parquet": "parquet"}
COMPRESSIONS = {".gz": "gz", ".zst": "zst", ".zstd": "zst"}
KNOWN = ".jsonl, .json (an object a line), .txt, each also with .gz or .zst, and .parquet"

PIECE_BYTES = 1 << 23
"""Of input, before any decompression: a compressed file is one piece, whatever its size."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file of text."""

    path: str
    """Absolute."""
    kind: Kind
    compression: str
    """`gz`, `zst`, or empty."""
    size: int
    """Bytes on disk."""
    modified: int
    """Time of the last change, in nanoseconds: a file that changes while it is prepared is noticed."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of one input: bytes start..stop of a plain file, row groups of a parquet file, else the whole of it."""

    input: Input
    start: int
    stop: int
    size: int
    """Bytes on disk, for the progress."""


Piece = tuple[Span, ...]


def find_inputs(paths: Sequence[Path]) -> list[Input]:
    """The files given, and those of a known kind below the folders given, sorted by name within a folder.

    DataError for a path that is not there, a file of no known kind, a folder without any or with text of another form
    (`a.jsonl.xz`), and a file given twice. What else lies in a folder is passed over, and a line on stderr says so.
    """
    found: dict[str, Input] = {}
    unread: list[Path] = []
    for path in paths:
        for file in _files(path, unread):
            kind, compression = parse_file_kind(file)
            if not kind:
                raise DataError(f"{file}: not a kind of text file that is read here; {KNOWN} are")
            facts = file.stat()
            absolute = str(file.resolve())
            if absolute in found:
                raise DataError(f"{file}: given twice; name it once")
            found[absolute] = Input(absolute, kind, compression, facts.st_size, facts.st_mtime_ns)
    if unread:
        raise DataError(
            f"{unread[0]}: a form of text that is not read here{_count_more(unread)}; {KNOWN} are: decompress or "
            "convert it, move it away, or name the files that are meant"
        )
    return list(found.values())


UNREAD = {
    *(".xz", ".bz2", ".lz4", ".lzma", ".gz", ".zst", ".zstd", ".7z", ".zip", ".rar", ".tar", ".tgz", ".warc"),
    *(".csv", ".tsv", ".arrow", ".feather", ".avro", ".orc", ".ndjson"),
    *(".html", ".htm", ".xml", ".epub", ".pdf", ".docx"),
}
"""Files that hold text in a form that is not read here."""
PLAIN_TEXT = {".md", ".markdown", ".rst", ".text", ".tex", ".org", ".adoc"}
"""Files that hold plain text under a name that is not read; they are read under another one."""


def _files(path: Path, unread: list[Path]) -> list[Path]:
    """The files to read; those of a folder that hold text in another form are added to `unread`."""
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: there is no such file or folder")
        return [path]
    files: list[Path] = []
    others: list[Path] = []
    for each in sorted(path.rglob("*")):
        if each.is_file() and not _is_hidden(each, path):
            (files if parse_file_kind(each)[0] else others).append(each)
    unread += [each for each in others if UNREAD & {suffix.lower() for suffix in each.suffixes[-2:]}]
    if not files:
        holds = f"; it holds {count_endings(others)}" if others else ""
        raise DataError(f"{path}: no text files in this folder{holds}; {KNOWN} are read{_advise_renaming(others)}")
    if others and not unread:
        first = f"{others[0].relative_to(path)}{_count_more(others)}"
        print(
            f"{path}: reads {count_endings(files)}; passed over {count_endings(others)}: {first}"
            f"{_advise_renaming(others)}",
            file=sys.stderr,
        )
    return files


def count_endings(files: Iterable[Path]) -> str:
    """`503 .txt, 1 .jsonl.gz`: how many files of each ending, the most frequent first."""
    counts = Counter(_name_ending(file) for file in files)
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = [f"{count:,} {ending or 'without an ending'}" for ending, count in ordered[:MOST_ENDINGS]]
    rest = sum(count for _, count in ordered[MOST_ENDINGS:])
    return ", ".join([*shown, *([f"{rest:,} of other endings"] if rest else [])])


MOST_ENDINGS = 5


def _name_ending(file: Path) -> str:
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() + suffix if suffix in COMPRESSIONS else suffix


def _advise_renaming(others: Iterable[Path]) -> str:
    """What to do about plain text under a name that is not read."""
    plain = any(file.suffix.lower() in PLAIN_TEXT for file in others)
    return "; to have plain text read, copy it to NAME.txt" if plain else ""


def _count_more(files: Sequence[Path]) -> str:
    return f" (and {len(files) - 1:,} more)" if len(files) > 1 else ""


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def parse_file_kind(path: Path) -> tuple[Kind | None, str]:
    """What a file holds and how it is compressed, by its name; None for a name of no known kind."""
    suffix, stem = path.suffix.lower(), path.stem
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = Path(stem).suffix.lower()
    kind = KINDS.get(suffix)
    return (None, "") if kind is None or (kind == "parquet" and compression) else (kind, compression)


def divide_inputs(inputs: Iterable[Input], rule: TextRule, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Pieces of about `piece_bytes`, in the order of the inputs: large plain files cut, small files together."""
    pieces: list[Piece] = []
    together: list[Span] = []
    for each in inputs:
        for span in _spans(each, rule, piece_bytes):
            if together and sum(one.size for one in together) + span.size > piece_bytes:
                pieces.append(tuple(together))
                together = []
            together.append(span)
    return [*pieces, tuple(together)] if together else pieces


def _spans(given: Input, rule: TextRule, piece_bytes: int) -> Iterator[Span]:
    if given.kind == "parquet":
        for number, size in enumerate(read_row_group_sizes(given.path)):
            yield Span(given, number, number + 1, size)
    elif given.compression or (given.kind == "txt" and rule == "file"):
        yield Span(given, 0, given.size, given.size)
    else:
        for start in range(0, given.size, piece_bytes):
            stop = min(start + piece_bytes, given.size)
            yield Span(given, start, stop, stop - start)


# A `tokenizers` file by itself: where it lies and how many ids it needs.

LARGEST_ID = (1 << 32) - 1
"""Token files hold 32 bits an id."""


def resolve_tokenizer_file(path: Path) -> Path:
    """The tokenizer.json that a path or its folder means; DataError if there is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: there is no such tokenizer file")
    return file.resolve()


def resolve_vocabulary(file: Path, given: int, end_of_text: str) -> int:
    """The vocabulary given, or the smallest that holds all ids of the tokenizer.

    DataError if the file is no tokenizer, has no end-of-text token, or knows ids beyond the vocabulary given.
    """
    from tokenizers import Tokenizer  # here: what counts samples on a login node starts without it

    TextTokenizer(file, given or LARGEST_ID, end_of_text)
    ids = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values()
    return given or max(ids) + 1
