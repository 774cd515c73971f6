"""How conversations become text: Prismatic's plain prompt, made of words alone so that it fits any tokenizer."""

from dataclasses import dataclass

IMAGE_PLACEHOLDER = "<image>"
"""LLaVA's mark for the image; the image's tokens come first, whatever the place of the mark."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Each side's turn. The end-of-text token follows each answer, and is not part of the strings."""

    question: str = "In: {text}\nOut:"
    answer: str = " {text}"

    def format_question(self, text: str) -> str:
        """A human turn, up to where the answer begins; the image's placeholder is taken out."""
        return self.question.format(text=text.replace(IMAGE_PLACEHOLDER, "").strip())

    def format_answer(self, text: str) -> str:
        """An answer as it follows `format_question`; a generated answer is compared after `str.strip`."""
        return self.answer.format(text=text.strip())


PLAIN = PromptTemplate()
"""The template of fine-tuning and evaluation. Another template means another stage format version."""
