"""How conversations become text. Templates are data: words alone, so that each fits any tokenizer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

IMAGE_PLACEHOLDER = "<image>"
"""LLaVA's mark for the image; the image's tokens come first, whatever the place of the mark."""


# Why: docs/decisions.md, D41
@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Each side's turn. The end-of-text token follows each answer, and is not part of the strings."""

    question: str = "In: {text}\nOut:"
    answer: str = " {text}"
    system: str = ""
    """What stands before the first question."""

    def format_question(self, text: str, *, first: bool = True) -> str:
        """A human turn, up to where the answer begins; the image's placeholder is taken out."""
        asked = self.question.replace("{text}", text.replace(IMAGE_PLACEHOLDER, "").strip())
        return self.system + asked if first else asked

    def format_answer(self, text: str) -> str:
        """An answer as it follows `format_question`; a generated answer is compared after `str.strip`.

        As Prismatic does, the image's placeholder is taken out here too: no model shall learn to write it.
        """
        return self.answer.replace("{text}", text.replace(IMAGE_PLACEHOLDER, "").strip())

    def dump_state(self) -> dict[str, str]:
        """For `restore_template`, as JSON."""
        return asdict(self)


PLAIN = PromptTemplate()
"""Prismatic's pure prompt. The words of a template are not changed: another wording is another template."""

CHAT = "USER: {text} ASSISTANT:"

TEMPLATES: Mapping[str, PromptTemplate] = {
    "pure": PLAIN,
    # the words of LLaVA-1.5's conv_vicuna_v1, which Prismatic's Vicuna models are tuned with too
    "vicuna": PromptTemplate(
        question=CHAT,
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    ),
    # those of LLaVA's conv_llava_v1
    "llava": PromptTemplate(
        question=CHAT,
        system="A chat between a curious human and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the human's questions. ",
    ),
}
"""By their names in a configuration (`FinetuneConfig.prompt`)."""


def restore_template(state: Mapping[str, Any]) -> PromptTemplate:
    """The template that a checkpoint's model was fine-tuned with, by the checkpoint's state.

    PLAIN where the state names none: a model that was not fine-tuned, or was before there was another.
    """
    return PromptTemplate(**state["prompt"]) if "prompt" in state else PLAIN
