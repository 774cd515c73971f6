"""What fine-tuning asks of a tokenizer, whatever its kind."""

from stages.data.prompts import PromptTemplate
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError

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
    if squeezed(back) != squeezed(text):
        raise DataError(
            f"{tokenizer.file}: text does not come back from tokens: {text!r} becomes {back!r}; "
            "take a tokenizer that was trained on such text, or the model's own"
        )
    if tokenizer.end_of_text in tokens:
        raise DataError(
            f"{tokenizer.file}: plain text becomes the end-of-text token {tokenizer.end_of_text_name!r}; "
            "the file's vocabulary must keep it apart"
        )


def squeezed(text: str) -> str:
    """Without blanks and letter case."""
    return "".join(text.split()).casefold()
