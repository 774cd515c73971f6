"""An export's folder: whole or absent, and nobody else's files."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.checkpoint.files import MODEL
from stages.errors import ConfigError, DamagedInputError, StageError
from stages.export.run import export_model
from tests.stages.export.export_case import NORMED, make_run, request_for


def test_a_damaged_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, None)
    file = next((tmp_path / "run" / "checkpoints").iterdir()) / MODEL
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedInputError, match="does not match its own record"):
        export_model(request_for(tmp_path / "run", tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_interrupted_export_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", NORMED, None)
    folder = export_model(request_for(tmp_path / "run", tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert export_model(request_for(tmp_path / "run", tmp_path / "out")) == folder  # its own folder it replaces

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stages.export.run.format_model_card", full)
    with pytest.raises(StageError, match="No space"):
        export_model(request_for(tmp_path / "run", tmp_path / "out", cell="other"))
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
        export_model(request_for(tmp_path / "run", out))
        (out / "LICENSE").write_text("mine")
    elif kind == "file":
        out.write_text("years")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=str(out)):
        export_model(request_for(tmp_path / "run", out))
    assert kind != "strange" or (out / "thesis.tex").read_text() == "years"
    assert kind != "added" or (out / "LICENSE").read_text() == "mine"


def test_a_stopped_export_leaves_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, None)
    program = (
        "import os, signal, sys, stages.export.run, stages.export.__main__ as main\n"
        "stages.export.run.write_text_files = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main.main())"
    )
    asked = request_for(tmp_path / "run", tmp_path / "out").model_dump_json()
    done = subprocess.run([sys.executable, "-c", program], input=asked, text=True, check=False, timeout=600)
    assert done.returncode == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
