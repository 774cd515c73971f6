"""Text to token ids, with a `tokenizers` file (tokenizer.json)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.data.prompts import PromptTemplate
from stages.errors import DataError

END_OF_TEXT_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")


PANIC = "PanicException"


@contextmanager
def convert_library_errors(file: Path, text: str | None = None) -> Iterator[None]:
    """In the block `tokenizers` works with `file`, on `text` if there is one: what it raises becomes a DataError.

    It raises bare Exception for a bad file, TypeError for a lone surrogate, and, where its Rust code panics, a class
    that derives from BaseException, so that `except Exception` lets it through.
    """
    try:
        yield
    except TypeError as error:  # all that the library says of a lone surrogate
        raise DataError(f"text {(text or '')[:40]!r} holds half a character (a lone surrogate)") from error
    except BaseException as error:
        if not (type(error) is Exception or type(error).__name__ == PANIC):
            raise
        said = " ".join(str(error).split())[:200]
        if text is None:
            raise DataError(f"{file}: not a tokenizer file that can be used: {said}") from error
        raise DataError(f"{file}: cannot encode text, as {text[:40]!r}: {said}; take another tokenizer file") from error


class TextTokenizer:
    """`encode` adds no special tokens; `end_of_text` ends a document and an answer."""

    def __init__(self, path: Path, vocabulary: int, end_of_text: str = "", *, literal: bool = False) -> None:
        """`path`: a tokenizer.json or its folder. DataError if it is none, or knows more tokens than the model.

        `end_of_text`: that token's name; empty: the first of END_OF_TEXT_NAMES that the file knows. `literal`: a
        special token's name within a text is encoded as the letters that it is made of, and means nothing.
        """
        from tokenizers import Tokenizer  # here: what counts samples on a login node starts without it

        file = path / "tokenizer.json" if path.is_dir() else path
        self.file, self.literal = file, literal
        if file.exists() and not file.is_file():  # the library would wait for ever for what comes through a pipe
            raise DataError(f"{file}: not a tokenizer file: it is no regular file")
        with convert_library_errors(file):
            self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = literal
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocabulary:
            raise DataError(f"{file}: token id {largest} is beyond the model's vocabulary of {vocabulary}")
        self.end_of_text = self._find_end_of_text(file, (end_of_text,) if end_of_text else END_OF_TEXT_NAMES)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In another process: the library's own copy forgets what is not in the file."""
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = self.literal

    @property
    def end_of_text_name(self) -> str:
        """How the file writes that token."""
        return self._tokenizer.id_to_token(self.end_of_text) or ""

    @cached_property
    def start_of_text(self) -> tuple[int, ...]:
        """What the file's own post-processor puts before every text (a start-of-text token); often nothing."""
        with convert_library_errors(self.file):
            bare, dressed = (self._tokenizer.encode("a", add_special_tokens=added) for added in (False, True))
        marks = dressed.special_tokens_mask
        return tuple(dressed.ids[: marks.index(0)]) if 0 in marks and len(dressed.ids) > len(bare.ids) else ()

    @cached_property
    def control(self) -> frozenset[int]:
        """Tokens that mean something to a model of conversations: no text may become one."""
        return frozenset({self.end_of_text, *self.start_of_text})

    def encode(self, text: str) -> list[int]:
        """Token ids. DataError for a string that is no text, and for a file that cannot encode one.

        Sources of samples check their texts before (`check_text`).
        """
        with convert_library_errors(self.file, text):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, of each text."""
        with convert_library_errors(self.file, texts[0] if texts else ""):
            return [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def marks_beginnings(self) -> bool:
        """Whether it begins each text that it encodes in its own way, with a blank: then a text's parts give more.

        Llama's do, and byte-level ones with `add_prefix_space`.
        """
        return any(
            self.encode(before + after) != self.encode(before) + self.encode(after)
            for before in ("\n", "a\n")
            for after in ("b", "B c", "1", "(x", "\u00fc")
        )

    def encode_after(self, before: str, text: str) -> list[int]:
        """Token ids of a text as they are behind `before`, for a tokenizer that marks beginnings.

        Where the two share a token, `text` is encoded by itself.
        """
        known, whole = self.encode(before), self.encode(before + text)
        return whole[len(known) :] if whole[: len(known)] == known else self.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        with convert_library_errors(self.file):
            return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _find_end_of_text(self, file: Path, names: Sequence[str]) -> int:
        for name in names:
            if (token := self._tokenizer.token_to_id(name)) is not None:
                return token
        raise DataError(f"{file}: no end-of-text token; it needs one of {', '.join(names)}")


# What fine-tuning asks of a tokenizer, whatever its kind.

SAMPLE = ("What colours are the 2 cars (left, right)?", "Red, and dark-blue.")
"""A question and an answer with what most of them are made of."""


def check_tokenizer(tokenizer: TextTokenizer, template: PromptTemplate) -> None:
    """DataError if an answer would not come back as it was learned, or a prompt takes the end-of-text token's place.

    Letter case and blanks may differ after the way to tokens and back, as a lower-casing WordPiece has it.
    """
    question, answer = SAMPLE
    text = template.format_question(question) + template.format_answer(answer)
    tokens = tokenizer.encode(text)
    back = tokenizer.decode(tokens)
    if normalize_text(back) != normalize_text(text):
        raise DataError(
            f"{tokenizer.file}: text does not come back from tokens: {text!r} becomes {back!r}; "
            "take a tokenizer that was trained on such text, or the model's own"
        )
    if tokenizer.end_of_text in tokens:
        raise DataError(
            f"{tokenizer.file}: plain text becomes the end-of-text token {tokenizer.end_of_text_name!r}; "
            "the file's vocabulary must keep it apart"
        )


def normalize_text(text: str) -> str:
    """Without blanks and letter case."""
    return "".join(text.split()).casefold()
