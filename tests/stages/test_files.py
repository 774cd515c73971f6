"""A stage whose claim is not the newest any more publishes nothing."""

import json
from pathlib import Path

import pytest
import torch

from stages.__main__ import main, run
from stages.checkpoint.files import list_step_folders, save_checkpoint
from stages.files import FencedError, write_json
from stages.stop import StopFlag
from tests.stages.training.training_case import make_world, text_config


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "000003.json").write_text("{}")
    monkeypatch.setenv("SWEEP_FENCE", str(folder / "000003.json"))
    return folder


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, {"step": step}, {"w": torch.zeros(2)}, None)


def test_with_the_newest_claim_everything_is_written(tmp_path: Path, claims: Path) -> None:
    write_json(tmp_path / "result.json", {})
    assert save(tmp_path / "checkpoints", 7).is_dir()


@pytest.mark.parametrize("how", ["superseded", "tidied away", "folder gone"])
def test_without_it_nothing_changes_and_nothing_is_left_over(tmp_path: Path, claims: Path, how: str) -> None:
    save(tmp_path / "checkpoints", 6)
    write_json(tmp_path / "result.json", {"old": 1})
    if how == "superseded":
        (claims / "000004.json").write_text("{}")
    else:
        (claims / "000003.json").unlink()
    if how == "folder gone":
        claims.rmdir()
    with pytest.raises(FencedError, match="a newer incarnation took over"):
        write_json(tmp_path / "result.json", {"new": 1})
    for step in (6, 7):
        with pytest.raises(FencedError):
            save(tmp_path / "checkpoints", step)
    assert json.loads((tmp_path / "result.json").read_text()) == {"old": 1}
    assert [path.name for path in list_step_folders(tmp_path / "checkpoints")] == ["step-00000006"]
    assert sorted(path.name for path in tmp_path.iterdir() if path != claims) == ["checkpoints", "result.json"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_fenced_stage_ends_with_one_clear_line_and_no_record(
    tmp_path: Path, claims: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").mkdir()
    job = make_world(tmp_path / "world").job("fenced", "pretrain", text_config(2))
    (claims / "000004.json").write_text("{}")
    assert run(job, StopFlag()) == 1
    said = capsys.readouterr().err
    assert "stages: fenced: a newer incarnation took over" in said
    assert "Traceback" not in said
    assert not job.error.exists()
    assert not job.result.exists()


def test_several_processes_are_refused_before_they_write_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = {"kind": "command", "command": ["judge"]}
    config = {"tasks": "exams", "tokenizer": {"name": "tokenizer"}, "engine": engine}
    job = make_world(tmp_path).job("several", "evaluate", config)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run(job, StopFlag()) == 1
    assert "one process, not in 8" in capsys.readouterr().err
    record = json.loads(job.error.read_text())
    assert record["class"] == "code"
    assert not job.checkpoints.exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main([str(job.run / "nothing.json")]) == 1
