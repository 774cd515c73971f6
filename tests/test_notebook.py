"""The notebook of docs/notebooks runs as it stands, and shows what it was saved with."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "first-sweep.ipynb"


def list_outputs(notebook: Any) -> list[list[str]]:
    """The text of each code cell's outputs."""
    return [
        [each.get("text") or each.data["text/plain"] for each in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_was_saved_with(tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.run_notebook", str(NOTEBOOK), str(tmp_path), str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    saved, made = (list_outputs(nbformat.read(path, as_version=4)) for path in (NOTEBOOK, out))  # type: ignore[no-untyped-call]  # nbformat has no types
    shown = "\n".join(text for cell in made for text in cell)
    assert "colours: 7 of 7 jobs done" in shown
    assert "has no cell 'mtiny-b50-i05-c0-x1'" in shown
    assert len(saved) == len(made)
    if not any(saved):  # kept without outputs: there is nothing to compare with
        return
    for before, now in zip(saved, made, strict=True):
        assert [blur(each) for each in before] == [blur(each) for each in now]


def blur(text: str) -> str:
    """Without what the machine decides: times, last digits of losses and scores, widths of columns."""
    return re.sub(r"[\s\[\]#.]+", " ", re.sub(r"-?\d+\.\d+|\d+ (?:s|min|seconds)\b", "N", text))
