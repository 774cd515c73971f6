"""Files of text to prepare, and their division into pieces that can be read apart.

How inputs are divided depends on their sizes alone, never on the number of workers: a piece's tokens are a function of
the inputs and the settings, so any number of workers gives the same bytes, and a finished piece stays finished.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.errors import DataError

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

    DataError for a path that is not there, a file of no known kind, a folder without any, and a file given twice.
    """
    found: dict[str, Input] = {}
    for path in paths:
        for file in _files(path):
            kind, compression = file_kind(file)
            if not kind:
                raise DataError(f"{file}: not a kind of text file that is read here; {KNOWN} are")
            facts = file.stat()
            absolute = str(file.resolve())
            if absolute in found:
                raise DataError(f"{file}: given twice; name it once")
            found[absolute] = Input(absolute, kind, compression, facts.st_size, facts.st_mtime_ns)
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = [
            each for each in path.rglob("*") if each.is_file() and file_kind(each)[0] and not _is_hidden(each, path)
        ]
        if not files:
            raise DataError(f"{path}: no text files in this folder; {KNOWN} are read")
        return sorted(files)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    return [path]


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def file_kind(path: Path) -> tuple[Kind | None, str]:
    """What a file holds and how it is compressed, by its name; None for a name of no known kind."""
    suffix, stem = path.suffix.lower(), path.stem
    compression = COMPRESSIONS.get(suffix, "")
    if compression:
        suffix = Path(stem).suffix.lower()
    kind = KINDS.get(suffix)
    return (None, "") if kind is None or (kind == "parquet" and compression) else (kind, compression)


def divide(inputs: Iterable[Input], rule: TextRule, piece_bytes: int = PIECE_BYTES) -> list[Piece]:
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
        from stages.prepare.parquet import row_group_sizes

        for number, size in enumerate(row_group_sizes(given.path)):
            yield Span(given, number, number + 1, size)
    elif given.compression or (given.kind == "txt" and rule == "file"):
        yield Span(given, 0, given.size, given.size)
    else:
        for start in range(0, given.size, piece_bytes):
            stop = min(start + piece_bytes, given.size)
            yield Span(given, start, stop, stop - start)
