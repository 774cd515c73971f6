"""Text to token ids, many documents at once and none so long that its encoding fills the memory."""

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from stages.data.tokenizer import TextTokenizer

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


def encode_documents(tokenizer: TextTokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of the documents one after the other, each with the end-of-text token behind its last part."""
    for batch in _batches(texts):
        parts, is_last = zip(*batch, strict=True)
        for ids, ends in zip(tokenizer.encode_batch(parts), is_last, strict=True):
            yield [*ids, tokenizer.end_of_text] if ends else ids


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[str, bool]]]:
    """Parts of documents, each with whether it is its document's last."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text in texts:
        for part, is_last in parts_of(text):
            batch.append((part, is_last))
            size += len(part)
            if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def parts_of(text: str, longest: int = PART_CHARACTERS) -> Iterator[tuple[str, bool]]:
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
