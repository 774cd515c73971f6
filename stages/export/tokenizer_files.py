"""A model's tokenizer and prompt, and the files in which transformers reads them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from stages.data.conversations import encode_turns
from stages.data.prompts import IMAGE_PLACEHOLDER, PromptTemplate
from stages.data.tokenizer import TextTokenizer
from stages.files import write_json

# The prompt that a model was fine-tuned with, as a chat template of transformers.

TEXT = "{text}"


class Blanks(NamedTuple):
    """What a chat template writes more than the fine-tune did: before the first question, a later one, an answer."""

    first: str = ""
    later: str = ""
    answer: str = ""


NO_BLANKS = Blanks()


def build_chat_template(prompt: Mapping[str, str], start: str, blanks: Blanks = NO_BLANKS) -> str:
    """Jinja for `apply_chat_template`: the same text as in the fine-tune, up to where the answer begins.

    `prompt`: a template's strings (`stages.data.prompts.PromptTemplate`), `start`: what begins every text.
    """
    before, _, after = prompt["question"].partition(TEXT)
    begin, _, end = prompt["answer"].partition(TEXT)
    content = f"message['content'] | replace({render_literal(IMAGE_PLACEHOLDER)}, '') | trim"
    later = f"{{% if not loop.first %}}{{{{ {render_literal(blanks.later)} }}}}{{% endif %}}" if blanks.later else ""
    return (
        f"{{{{ {render_literal(start + blanks.first + prompt.get('system', ''))} }}}}"
        f"{{% for message in messages %}}{{% if message['role'] == 'user' %}}{later}"
        f"{{{{ {render_literal(before)} + ({content}) + {render_literal(after)} }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {render_literal(blanks.answer + begin)} + ({content}) + {render_literal(end)} + eos_token }}}}"
        "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}"
    )


PROBES: tuple[tuple[tuple[str, str], ...], ...] = (
    (("What colour is it?", "Red."), ("Sure?", "yes"), ("How many?", "12")),
    (
        ("<image>\nIs 0 + 1 = 1?", ""),
        ("Why (in short)?", "(because)"),
        ("\u00fcn\u00ef, \u4e2d\u6587?", '"\u00e9t\u00e9"'),
    ),
    (("a\nb", "c\nd"), ("e  f", "- g\n- h")),
)
"""Conversations by which a chat template is compared with the fine-tune: words, numbers, marks, other letters, none."""


# Why: docs/decisions.md, D150
def choose_blanks(folder: Path, words: "TextSettings") -> Blanks | None:
    """The blanks with which transformers gives the fine-tune's ids for `folder`'s tokenizer; None if none do.

    The fine-tune encodes each question and answer by itself. A tokenizer that puts a blank before each text gives other
    ids for the whole than for its parts; blanks in the template may make up for that.
    """
    from transformers import AutoTokenizer

    assert words.tokenizer is not None  # noqa: S101 - there is no chat without one
    assert words.prompt is not None  # noqa: S101
    found = AutoTokenizer.from_pretrained(folder)
    start = render_token_names(words.tokenizer, words.start)
    expected = [encode_as_tuned(words, turns) for turns in PROBES]
    for blanks in map(Blanks, *zip(*product(("", " "), repeat=3), strict=True)):
        template = build_chat_template(words.prompt, start, blanks)
        given = [apply_template(found, template, turns) for turns in PROBES]
        if given == expected:
            return blanks
    return None


def encode_as_tuned(words: "TextSettings", turns: Sequence[tuple[str, str]]) -> list[int]:
    """A conversation's ids as the fine-tune has them, without an image."""
    assert words.tokenizer is not None  # noqa: S101
    template = PromptTemplate(**(words.prompt or {}))
    return [*words.start, *encode_turns(words.tokenizer, template, "", turns)[0]]


def apply_template(tokenizer: Any, template: str, turns: Sequence[tuple[str, str]]) -> list[int]:
    """A conversation's ids as a tokenizer of transformers gives them."""
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(ROLES, turn, strict=True)]
    ids: list[int] = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=True)["input_ids"]
    return ids


ROLES = ("user", "assistant")


def render_literal(text: str) -> str:
    """A string in Jinja."""
    return json.dumps(text)


QUESTION = "What is in the picture?"
WORDS = "Once upon a time"


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How a model is spoken to."""

    tokenizer: TextTokenizer | None
    prompt: Mapping[str, str] | None
    """Strings of the template that it was fine-tuned with; None for one that was not."""

    @property
    def end_of_text(self) -> int | None:
        return self.tokenizer.end_of_text if self.tokenizer else None

    @property
    def start(self) -> tuple[int, ...]:
        """Ids that begin every conversation."""
        return self.tokenizer.start_of_text if self.tokenizer and self.prompt is not None else ()

    @property
    def example(self) -> str:
        """Something to give it."""
        if self.prompt is None:
            return WORDS
        return self.prompt.get("system", "") + self.prompt["question"].format(text=QUESTION)


def write_text_files(words: TextSettings, folder: Path, *, context: int) -> bool:
    """tokenizer.json as it is, tokenizer_config.json with the chat template of a fine-tuned model; nothing without a
    tokenizer. generation_config.json in any case: greedy, as our evaluation decodes.

    Whether the chat template gives the ids of the fine-tune; true where there is none.
    """
    ids = {} if words.end_of_text is None else {"eos_token_id": words.end_of_text, "pad_token_id": words.end_of_text}
    write_json(folder / "generation_config.json", {"do_sample": False, **ids})
    if words.tokenizer is None:
        return True
    shutil.copyfile(words.tokenizer.file, folder / "tokenizer.json")
    end = words.tokenizer.end_of_text_name
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "padding_side": "left",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    if words.prompt is None:
        return True
    blanks = choose_blanks(folder, words)
    start = render_token_names(words.tokenizer, words.start)
    config["chat_template"] = build_chat_template(words.prompt, start, blanks or NO_BLANKS)
    write_json(folder / "tokenizer_config.json", config)
    return blanks is not None


def render_token_names(tokenizer: TextTokenizer, ids: tuple[int, ...]) -> str:
    """Special tokens as their file writes them."""
    known = Tokenizer.from_file(str(tokenizer.file))
    return "".join(known.id_to_token(token) or "" for token in ids)
