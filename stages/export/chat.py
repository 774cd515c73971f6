"""The prompt that a model was fine-tuned with, as a chat template of transformers."""

import json
from collections.abc import Mapping

TEXT = "{text}"


def chat_template(prompt: Mapping[str, str], start: str) -> str:
    """Jinja for `apply_chat_template`: the same text as in the fine-tune, up to where the answer begins.

    `prompt`: a template's strings (`stages.data.prompts.PromptTemplate`), `start`: what begins every text.
    """
    before, _, after = prompt["question"].partition(TEXT)
    begin, _, end = prompt["answer"].partition(TEXT)
    return (
        f"{{{{ {literal(start + prompt.get('system', ''))} }}}}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {literal(before)} + message['content'] | trim + {literal(after)} }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {literal(begin)} + message['content'] | trim + {literal(end)} + eos_token }}}}"
        "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}"
    )


def literal(text: str) -> str:
    """A string in Jinja."""
    return json.dumps(text)
