"""First pass: the documents of a piece to one file of token ids."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from stages.errors import DataError
from stages.files import replacing, write_json
from stages.prepare.bad_lines import BadLines
from stages.prepare.documents import DocumentReader
from stages.prepare.encoding import encode_documents, load_tokenizer
from stages.prepare.inputs import Piece
from stages.prepare.recipe import Recipe, WorkFolder


@dataclass(slots=True)
class PieceRecord:
    """What a piece gave."""

    documents: int = 0
    empty: int = 0
    """Documents without text, which are left out."""
    text_bytes: int = 0
    tokens: int = 0
    """End-of-text tokens included."""
    largest: int = -1
    """Largest token id."""
    digest: str = ""
    """SHA-256 over the texts, each with its length before it."""
    bad: int = 0
    bad_examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PieceTask:
    """One piece to be made, for a worker."""

    recipe: Recipe
    folder: WorkFolder
    number: int
    piece: Piece
    bad_limit: int


def make_piece(task: PieceTask) -> PieceRecord:
    """Writes the piece's tokens and then its record. DataError: see `DocumentReader.read`, or the vocabulary."""
    record, bad = PieceRecord(), BadLines(task.bad_limit)
    recipe = task.recipe
    reader = DocumentReader(recipe.field, recipe.txt, bad)
    tokenizer = load_tokenizer(recipe.tokenizer, recipe.vocabulary, recipe.end_of_text)
    with replacing(task.folder.tokens(task.number)) as unfinished, unfinished.open("wb") as file:
        for ids in encode_documents(tokenizer, _counted(reader.read(task.piece), record)):
            largest = max(ids, default=-1)
            if largest >= recipe.vocabulary:
                raise DataError(f"{recipe.tokenizer}: it gave token id {largest}; vocabulary {recipe.vocabulary}")
            record.largest, record.tokens = max(record.largest, largest), record.tokens + len(ids)
            file.write(np.array(ids, dtype=recipe.token_type).tobytes())
    check_unchanged(task.piece)
    record.bad, record.bad_examples = bad.count, bad.examples
    write_json(task.folder.piece_record(task.number), asdict(record))
    return record


def _counted(texts: Iterator[str], record: PieceRecord) -> Iterator[str]:
    """Passes on what is not empty, and counts."""
    digest = hashlib.sha256()
    for text in texts:
        if not text:
            record.empty += 1
            continue
        content = text.encode()
        digest.update(b"%d:" % len(content))
        digest.update(content)
        record.documents += 1
        record.text_bytes += len(content)
        yield text
    record.digest = digest.hexdigest()


def check_unchanged(piece: Piece) -> None:
    """DataError if an input is not what it was when the work began."""
    for given in {span.input for span in piece}:
        facts = Path(given.path).stat()
        if (facts.st_size, facts.st_mtime_ns) != (given.size, given.modified):
            raise DataError(f"{given.path}: changed while it was read; start again when it is finished")


def read_piece_record(folder: WorkFolder, number: int, recipe: Recipe) -> PieceRecord | None:
    """The record of a finished piece, if its tokens are whole."""
    try:
        record = PieceRecord(**json.loads(folder.piece_record(number).read_bytes()))
        size = folder.tokens(number).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return record if size == record.tokens * np.dtype(recipe.token_type).itemsize else None
