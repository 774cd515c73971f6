import re
from pathlib import Path
from typing import Any

import pytest

from stages.data.prompts import PLAIN
from stages.export.run import export_model
from tests.stages.export.export_case import NORMED, PATCHES, make_run, picture, request_for, write_tokenizer


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
    card = (export_model(request_for(tmp_path / "run", tmp_path / "out", **told)) / "README.md").read_text()
    for line in (
        "| trunk | dclm | text | r9 | 80 % |", "| schedule.peak_lr | 0.003 |", "| result: tokens | 4096 |",
        "| piqa | text | 0.61 | 0.01 | 0.5 | 1838 |", "| A100-hours, its own | 12.5 |",
        "| GPU-hours, its own | unknown |", "| revision | abc123 |", "license: # to be filled in",
    ):  # fmt: skip
        assert line in card
    assert "a\\|b\\<script\\>" in card
    assert "<script>" not in card


def test_the_cards_code_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", NORMED, PATCHES, prompt=PLAIN.dump_state())
    tokenizer = write_tokenizer(tmp_path / "bpe", start=True)
    folder = export_model(request_for(tmp_path / "run", tmp_path / "out", stage="finetune", tokenizer=str(tokenizer)))
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(folder)
    Path("photo.jpg").write_bytes(picture())
    exec("\n".join(blocks), {})  # noqa: S102 - what the card tells a reader to do
    assert len(capsys.readouterr().out.splitlines()) == 2
