import json
from pathlib import Path

from stages.data.prompts import PLAIN, TEMPLATES
from stages.export.run import export_model
from stages.export.tokenizer_files import build_chat_template
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
