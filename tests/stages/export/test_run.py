"""An export's folder: tokenizer, card, whole or absent, and nobody else's files."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.checkpoint.files import MODEL
from stages.data.prompts import PLAIN, TEMPLATES
from stages.errors import ConfigError, DamagedInputError, StageError
from stages.export.run import export
from stages.export.tokenizer_files import chat_template
from tests.stages.export.export_case import NORMED, PATCHES, make_run, picture, request_for, write_tokenizer


def test_the_tokenizer_speaks_as_in_the_fine_tune(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    make_run(tmp_path / "run", NORMED, None, prompt=TEMPLATES["vicuna"].state())
    tokenizer = write_tokenizer(tmp_path / "bpe", start=True)
    folder = export(request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tokenizer)))
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
    text = chat_template({**PLAIN.state(), "system": 'say "hi" {{ 1 }}\n'}, "")
    assert '"say \\"hi\\" {{ 1 }}\\n"' in text


def test_the_card_tells_where_the_model_comes_from_and_is_only_text(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, PATCHES)
    told: dict[str, Any] = {
        "axes": {"model": "tiny", "captions": "a|b<script>"},
        "data": [{"stage": "trunk", "name": "dclm", "kind": "text", "revision": "r9", "share": 0.8}],
        "recipe": [("pretrain, job k", {"schedule.peak_lr": 0.003, "seed": 124, "result: tokens": 4096})],
        "scores": [{"task": "piqa", "kind": "text", "score": 0.61, "stderr": 0.01, "chance": 0.5, "n": 1838}],
        "cost": {"A100-hours, its own": 12.5, "GPU-hours, its own": None},
        "code_revision": "abc123",
    }
    card = (export(request_for(tmp_path / "run", tmp_path / "out", **told)) / "README.md").read_text()
    for line in (
        "| trunk | dclm | text | r9 | 80 % |", "| schedule.peak_lr | 0.003 |", "| result: tokens | 4096 |",
        "| piqa | text | 0.61 | 0.01 | 0.5 | 1838 |", "| A100-hours, its own | 12.5 |",
        "| GPU-hours, its own | unknown |", "| revision | abc123 |", "license: # to be filled in",
    ):  # fmt: skip
        assert line in card
    assert "a\\|b\\<script\\>" in card
    assert "<script>" not in card


def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, None)
    file = next((tmp_path / "run" / "checkpoints").iterdir()) / MODEL
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedInputError, match="does not match its own record"):
        export(request_for(tmp_path / "run", tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_interrupted_export_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", NORMED, None)
    folder = export(request_for(tmp_path / "run", tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert export(request_for(tmp_path / "run", tmp_path / "out")) == folder  # its own folder it replaces

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stages.export.run.model_card", full)
    with pytest.raises(StageError, match="No space"):
        export(request_for(tmp_path / "run", tmp_path / "out", cell="other"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize("kind", ["strange", "added", "file", "link"])
def test_what_an_export_did_not_make_it_does_not_replace(kind: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, None)
    out = tmp_path / "out"
    if kind == "strange":
        out.mkdir()
        (out / "thesis.tex").write_text("years")
    elif kind == "added":
        export(request_for(tmp_path / "run", out))
        (out / "LICENSE").write_text("mine")
    elif kind == "file":
        out.write_text("years")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=str(out)):
        export(request_for(tmp_path / "run", out))
    assert kind != "strange" or (out / "thesis.tex").read_text() == "years"
    assert kind != "added" or (out / "LICENSE").read_text() == "mine"


def test_the_cards_code_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", NORMED, PATCHES, prompt=PLAIN.state())
    tokenizer = write_tokenizer(tmp_path / "bpe", start=True)
    folder = export(request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tokenizer)))
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(folder)
    Path("photo.jpg").write_bytes(picture())
    exec("\n".join(blocks), {})  # noqa: S102 - what the card tells a reader to do
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_stopped_export_leaves_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, None)
    program = (
        "import os, signal, sys, stages.export.run, stages.export.__main__ as main\n"
        "stages.export.run.write_text_files = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main.main())"
    )
    asked = request_for(tmp_path / "run", tmp_path / "out").model_dump_json()
    done = subprocess.run([sys.executable, "-c", program], input=asked, text=True, check=False, timeout=120)
    assert done.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
