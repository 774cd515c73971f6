"""First pass: the documents of a piece to one file of token ids."""

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.files import replace_atomically, write_json
from stages.prepare.documents import BadLines, DocumentReader
from stages.prepare.inputs import Piece
from stages.prepare.recipe import Recipe, WorkFolder

# Text to token ids, many documents at once and none so long that its encoding fills the memory.

PART_CHARACTERS = 1 << 18
"""A longer document is encoded in parts, as `tokenizers` needs some hundred bytes a token while it works."""
BATCH_CHARACTERS = 1 << 18
BATCH_DOCUMENTS = 256

NEWLINE_BEFORE_TEXT = re.compile(r"\n(?=\S)")
SPACE_BEFORE_TEXT = re.compile(r"\s(?=\S)")


@lru_cache(maxsize=1)
def load_tokenizer(path: str, vocabulary: int, end_of_text: str) -> TextTokenizer:
    """The tokenizer of a process, read once; it works on one core, as there is a process for each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return TextTokenizer(Path(path), vocabulary, end_of_text)


# Why: docs/decisions.md, D152
def encode_documents(tokenizer: TextTokenizer, texts: Iterable[str], *, joined: bool = False) -> Iterator[list[int]]:
    """Token ids of the documents one after the other, each with the end-of-text token behind its last part.

    `joined`: for a tokenizer that marks beginnings, the parts of a document are encoded as what they are, its later
    parts: each behind the letter before it, whose tokens are taken away again.
    """
    joined = joined and tokenizer.marks_beginnings
    for batch in _batches(texts):
        later = [joined and part.before != "" for part in batch]
        encoded = iter(
            tokenizer.encode_batch([part.text for part, is_later in zip(batch, later, strict=True) if not is_later])
        )
        for part, is_later in zip(batch, later, strict=True):
            ids = tokenizer.encode_after(part.before, part.text) if is_later else next(encoded)
            yield [*ids, tokenizer.end_of_text] if part.is_last else ids


class DocumentPart(NamedTuple):
    """A part of a document, or all of it."""

    text: str
    is_last: bool
    before: str
    """The letter that stands before it in the document; empty for the first part."""


def _batches(texts: Iterable[str]) -> Iterator[list[DocumentPart]]:
    batch: list[DocumentPart] = []
    size = 0
    for text in texts:
        before = ""
        for part, is_last in split_parts(text):
            batch.append(DocumentPart(part, is_last, before))
            before = part[-1:]
            size += len(part)
            if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def split_parts(text: str, longest: int = PART_CHARACTERS) -> Iterator[tuple[str, bool]]:
    """A document in parts of at most `longest` characters, each with whether it is the last.

    A part ends after the last line break before a word, where the usual pre-tokenizers split in any case; without one
    in its second half before the last space, which the next part then begins with; without that, anywhere.
    """
    start = 0
    while len(text) - start > longest:
        stop = _cut(text, start + longest // 2, start + longest)
        yield text[start:stop], False
        start = stop
    yield text[start:], True


def _cut(text: str, first: int, last: int) -> int:
    for pattern, behind in ((NEWLINE_BEFORE_TEXT, 1), (SPACE_BEFORE_TEXT, 0)):
        places = [found.start() + behind for found in pattern.finditer(text, first, last)]
        if places:
            return places[-1]
    return last


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
    with replace_atomically(task.folder.build_tokens_path(task.number)) as unfinished, unfinished.open("wb") as file:
        texts = _counted(reader.read(task.piece), record)
        for ids in encode_documents(tokenizer, texts, joined=recipe.joined_parts):
            largest = max(ids, default=-1)
            if largest >= recipe.vocabulary:
                raise DataError(f"{recipe.tokenizer}: it gave token id {largest}; vocabulary {recipe.vocabulary}")
            record.largest, record.tokens = max(record.largest, largest), record.tokens + len(ids)
            file.write(np.array(ids, dtype=recipe.token_type).tobytes())
    check_unchanged(task.piece)
    record.bad, record.bad_examples = bad.count, bad.examples
    write_json(task.folder.build_piece_record_path(task.number), asdict(record))
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
        record = PieceRecord(**json.loads(folder.build_piece_record_path(number).read_bytes()))
        size = folder.build_tokens_path(number).stat().st_size
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if size == record.tokens * np.dtype(recipe.token_type).itemsize else None


# Between the passes: the files of token ids as one numbered row of sequences.
#
# Each piece's tokens are cut into sequences from its beginning. What is left at the ends of the pieces is joined, in
# the pieces' order, and cut again: of the whole input less than one sequence is dropped.

OPEN_FILES = 256

Tokens = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]


def join_ends(recipe: Recipe, folder: WorkFolder, records: Sequence[PieceRecord]) -> tuple[list[int], int]:
    """(sequences of each file, tokens dropped); the joined ends are one more file, numbered after the pieces.

    Writes `folder.sequences` last.
    """
    length = recipe.sequence_tokens
    token_bytes = np.dtype(recipe.token_type).itemsize
    counts = [record.tokens // length for record in records]
    left = 0
    with replace_atomically(folder.build_tokens_path(len(records))) as unfinished, unfinished.open("wb") as joined:
        for number, (record, count) in enumerate(zip(records, counts, strict=True)):
            with folder.build_tokens_path(number).open("rb") as file:
                file.seek(count * length * token_bytes)
                joined.write(file.read())
            left += record.tokens - count * length
    counts.append(left // length)
    write_json(folder.sequences, counts)
    return counts, left % length


class TokenFiles:
    """All sequences, numbered in the order of the pieces and read one at a time."""

    def __init__(self, recipe: Recipe, folder: WorkFolder) -> None:
        self._recipe, self._folder = recipe, folder
        self._ends = list(accumulate(json.loads(folder.sequences.read_bytes())))
        self._open: OrderedDict[int, int] = OrderedDict()
        self.size: int = self._ends[-1]

    def read(self, index: int) -> Tokens:
        """Sequence `index`, (context + 1,)."""
        number = bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        size = self._recipe.sequence_tokens * np.dtype(self._recipe.token_type).itemsize
        content = os.pread(self._descriptor(number), size, (index - first) * size)
        return np.frombuffer(content, dtype=self._recipe.token_type)

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self._folder.build_tokens_path(number), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(number)
        return self._open[number]

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


@lru_cache(maxsize=1)
def open_token_files(recipe: Recipe, root: Path) -> TokenFiles:
    """One for all the shards that a process writes."""
    return TokenFiles(recipe, WorkFolder(root))
