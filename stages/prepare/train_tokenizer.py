"""Trains a byte-level BPE tokenizer on text: any text can be encoded, and comes back as it was."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.data.tokenizer import END_OF_TEXT_NAMES, TextTokenizer
from stages.errors import ConfigError, DataError
from stages.files import replace_atomically
from stages.prepare.documents import BadLines, DocumentReader
from stages.prepare.inputs import LARGEST_ID, Input, Piece, TextRule, divide_inputs
from stages.prepare.pool import show_progress

END_OF_TEXT = END_OF_TEXT_NAMES[0]
BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecipe:
    """What is asked of a tokenizer."""

    vocabulary: int
    """Ids at most: 256 bytes, the special tokens, and merges that the text gives."""
    special: tuple[str, ...] = ()
    """Special tokens besides the end of text, which is the first id."""
    field: str = "text"
    txt: TextRule = "file"
    least_count: int = 2
    """How often a pair must occur to become a token."""


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """What came of it."""

    vocabulary: int
    documents: int
    text_bytes: int
    bad: int
    is_new: bool
    """False: the very same file was there."""


def train_tokenizer(out: Path, recipe: TokenizerRecipe, inputs: Sequence[Input], *, bad_limit: int) -> TrainedTokenizer:
    """Writes the tokenizer.json `out`, whole or not at all. The same texts and recipe give the same bytes.

    ConfigError for a vocabulary that cannot hold the bytes; DataError: no text, too many bad lines, or another file is
    there; StorageError for a full disk.
    """
    names = list(dict.fromkeys([END_OF_TEXT, *recipe.special]))
    if recipe.vocabulary < BYTES + len(names):
        raise ConfigError(
            f"--vocabulary {recipe.vocabulary} has no room for {BYTES} bytes and {len(names)} special tokens; "
            f"{BYTES + len(names) + 1} is the least"
        )
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give the file to write, as {out}/tokenizer.json")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=recipe.least_count,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = TextStream(recipe, inputs, bad_limit)
    tokenizer.train_from_iterator(texts, trainer)
    if texts.error is not None:
        raise texts.error
    if not texts.documents:
        raise DataError("no text in the inputs; a tokenizer is trained on some")
    content = tokenizer.to_str(pretty=True) + "\n"
    is_new = check_earlier_file(out, content)
    if is_new:
        with replace_atomically(out) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
    TextTokenizer(out, LARGEST_ID)  # it is one that the stages read
    for example in texts.bad.examples:
        print(f"left out: {example}", file=sys.stderr)
    return TrainedTokenizer(
        tokenizer.get_vocab_size(with_added_tokens=True), texts.documents, texts.text_bytes, texts.bad.count, is_new
    )


class TextStream:
    """The texts of the inputs for the trainer, once; an error ends them, as the trainer would hide which it was."""

    def __init__(self, recipe: TokenizerRecipe, inputs: Sequence[Input], bad_limit: int) -> None:
        self.bad = BadLines(bad_limit)
        self.documents = self.text_bytes = 0
        self.error: DataError | None = None
        self._reader = DocumentReader(recipe.field, recipe.txt, self.bad)
        self._pieces: list[Piece] = divide_inputs(inputs, recipe.txt)

    def __iter__(self) -> Iterator[str]:
        sizes = [sum(span.size for span in piece) for piece in self._pieces]
        with show_progress("reading", sum(sizes)) as listener:
            for piece, size in zip(self._pieces, sizes, strict=True):
                try:
                    for text in self._reader.read(piece):
                        self.documents += bool(text)
                        self.text_bytes += len(text.encode())
                        yield text
                except DataError as error:
                    self.error = error
                    return
                listener.advance(size)


def check_earlier_file(out: Path, content: str) -> bool:
    """Whether the file is still to be written; DataError if another is there, by which data may have been made."""
    try:
        before = out.read_bytes()
    except FileNotFoundError:
        return True
    if before == content.encode():
        return False
    raise DataError(f"{out}: is there and is another tokenizer, by which data may have been made; give another --out")
