"""A model's tokenizer and prompt, and the files in which transformers reads them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from stages.data.tokenizer import TextTokenizer
from stages.files import write_json

# The prompt that a model was fine-tuned with, as a chat template of transformers.

TEXT = "{text}"


def build_chat_template(prompt: Mapping[str, str], start: str) -> str:
    """Jinja for `apply_chat_template`: the same text as in the fine-tune, up to where the answer begins.

    `prompt`: a template's strings (`stages.data.prompts.PromptTemplate`), `start`: what begins every text.
    """
    before, _, after = prompt["question"].partition(TEXT)
    begin, _, end = prompt["answer"].partition(TEXT)
    return (
        f"{{{{ {render_literal(start + prompt.get('system', ''))} }}}}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {render_literal(before)} + message['content'] | trim + {render_literal(after)} }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {render_literal(begin)} + message['content'] | trim + {render_literal(end)} + eos_token }}}}"
        "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}"
    )


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


def write_text_files(words: TextSettings, folder: Path, *, context: int) -> None:
    """tokenizer.json as it is, tokenizer_config.json with the chat template of a fine-tuned model; nothing without a
    tokenizer. generation_config.json in any case: greedy, as our evaluation decodes."""
    ids = {} if words.end_of_text is None else {"eos_token_id": words.end_of_text, "pad_token_id": words.end_of_text}
    write_json(folder / "generation_config.json", {"do_sample": False, **ids})
    if words.tokenizer is None:
        return
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
    if words.prompt is not None:
        config["chat_template"] = build_chat_template(words.prompt, render_token_names(words.tokenizer, words.start))
    write_json(folder / "tokenizer_config.json", config)


def render_token_names(tokenizer: TextTokenizer, ids: tuple[int, ...]) -> str:
    """Special tokens as their file writes them."""
    known = Tokenizer.from_file(str(tokenizer.file))
    return "".join(known.id_to_token(token) or "" for token in ids)
