"""A `tokenizers` file by itself: where it lies and how many ids it needs."""

from pathlib import Path

from tokenizers import Tokenizer

from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError

LARGEST_ID = (1 << 32) - 1
"""Token files hold 32 bits an id."""


def tokenizer_file(path: Path) -> Path:
    """The tokenizer.json that a path or its folder means; DataError if there is none."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: there is no such tokenizer file")
    return file.resolve()


def vocabulary_of(file: Path, given: int, end_of_text: str) -> int:
    """The vocabulary given, or the smallest that holds all ids of the tokenizer.

    DataError if the file is no tokenizer, has no end-of-text token, or knows ids beyond the vocabulary given.
    """
    TextTokenizer(file, given or LARGEST_ID, end_of_text)
    ids = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True).values()
    return given or max(ids) + 1
