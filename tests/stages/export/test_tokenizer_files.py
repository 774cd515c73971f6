import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.data.conversations import Conversations
from stages.data.prompts import PLAIN, TEMPLATES
from stages.data.tokenizer import TextTokenizer
from stages.export.run import export_model
from stages.export.tokenizer_files import build_chat_template
from tests.stages.data.tokenizer_kinds import KINDS, LLAMA_LIKE
from tests.stages.export.export_case import NORMED, make_run, request_for, write_tokenizer


def test_the_tokenizer_speaks_as_in_the_fine_tune(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_run(tmp_path / "run", NORMED, None, prompt=TEMPLATES["vicuna"].dump_state())
    tokenizer = write_tokenizer(tmp_path / "bpe", start=True)
    folder = export_model(request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tokenizer)))
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    found = AutoTokenizer.from_pretrained(folder)
    assert found.eos_token_id == 0
    assert found("a b").input_ids == [1, 3, 4]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who reads one may read all
    messages = [{"role": "user", "content": " a? "}, {"role": "assistant", "content": "b"}]
    vicuna = TEMPLATES["vicuna"]
    asked = "<s>" + vicuna.format_question("a?")
    assert found.apply_chat_template(messages[:1], tokenize=False) == asked
    whole = asked + vicuna.format_answer("b") + "<|endoftext|>"
    assert found.apply_chat_template(messages, tokenize=False) == whole
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0


def test_a_chat_template_holds_its_words_as_text() -> None:
    text = build_chat_template({**PLAIN.dump_state(), "system": 'say "hi" {{ 1 }}\n'}, "")
    assert '"say \\"hi\\" {{ 1 }}\\n"' in text


TURNS = [("What colours?", "Red, and dark-blue."), ("Is 0 + 1 = 1?", ""), ("Why (in short)?", "yes!")]
ALL_KINDS = {**KINDS, **LLAMA_LIKE}
EXACT = {"byte-level", "word-piece", "unigram", "metaspace first"}
"""Where a chat template gives the fine-tune's ids. Llama 2's pieces join words, whatever blanks a template writes."""


def tuned_ids(tokenizer: TextTokenizer, folder: Path, template: str) -> list[int]:
    """What the fine-tune itself is given, image aside."""
    turns = [{"from": who, "value": text} for turn in TURNS for who, text in zip(("human", "gpt"), turn, strict=True)]
    (folder / "talks").mkdir()
    (folder / "talks" / "t.json").write_text(json.dumps([{"id": "1", "conversations": turns}]))
    source = Conversations(
        "talks", folder / "talks", tokenizer=tokenizer, images=None, max_length=4_096,
        template=TEMPLATES[template], start=tokenizer.start_of_text,
    )  # fmt: skip
    document = source.read_document(0, 0)
    assert document is not None
    return [*document.start, *map(int, document.tokens)]


@pytest.mark.parametrize("template", ["pure", "vicuna"])
@pytest.mark.parametrize(("name", "write"), ALL_KINDS.items(), ids=ALL_KINDS)
def test_the_chat_template_gives_the_fine_tunes_ids_or_the_card_says_how(
    tmp_path: Path, name: str, write: Callable[[Path], Path], template: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = TextTokenizer(write(tmp_path / "tokenizer.json"), 100_000, literal=True)
    model = NORMED.model_copy(update={"vocabulary": 600})
    make_run(tmp_path / "run", model, None, prompt=TEMPLATES[template].dump_state())
    request = request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tmp_path))
    folder = export_model(request)
    found: Any = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": role, "content": text}
        for turn in TURNS
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    given = found.apply_chat_template(messages, return_dict=True)["input_ids"]
    expected, card = tuned_ids(tokenizer, tmp_path, template), (folder / "README.md").read_text()
    assert (given == expected) is (name in EXACT)
    if name in EXACT:
        assert "`tokenizer.apply_chat_template` gives the token ids that it was fine-tuned with" in card
        return
    assert "`tokenizer.apply_chat_template` gives other token ids than the fine-tune had" in card
    [code] = re.findall(r"```python\n(def encode_chat.*?)```", card, flags=re.DOTALL)
    space: dict[str, Any] = {"tokenizer": found}
    exec(code, space)  # noqa: S102 - what the card tells a reader to do
    assert space["encode_chat"](TURNS) == expected


def test_the_chat_template_takes_the_image_mark_out_as_the_fine_tune_does(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_run(tmp_path / "run", NORMED, None, prompt=PLAIN.dump_state())
    tokenizer = write_tokenizer(tmp_path / "bpe")
    folder = export_model(request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tokenizer)))
    found: Any = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "<image>\n a"}, {"role": "assistant", "content": "b<image> "}]
    text = found.apply_chat_template(messages, tokenize=False)
    assert text == PLAIN.format_question("<image>\n a") + PLAIN.format_answer("b<image> ") + "<|endoftext|>"
    assert "<image>" not in text
