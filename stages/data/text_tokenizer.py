"""Text to token ids, with a `tokenizers` file (tokenizer.json)."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from stages.errors import DataError

END_OF_TEXT_NAMES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>")


class TextTokenizer:
    """`encode` adds no special tokens; `end_of_text` ends a document and an answer."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        """`path`: a tokenizer.json or its folder. DataError if it is none, or knows more tokens than the model."""
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception for a bad file
            raise DataError(f"{file}: not a tokenizer file: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocabulary:
            raise DataError(f"{file}: token id {largest} is beyond the model's vocabulary of {vocabulary}")
        self.end_of_text = self._find_end_of_text(file)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def _find_end_of_text(self, file: Path) -> int:
        for name in END_OF_TEXT_NAMES:
            if (token := self._tokenizer.token_to_id(name)) is not None:
                return token
        raise DataError(f"{file}: no end-of-text token; it needs one of {', '.join(END_OF_TEXT_NAMES)}")
