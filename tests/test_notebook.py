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
    saved, made = (list_outputs(nbformat.read(path, as_version=4)) for path in (NOTEBOOK, out))
    assert len(saved) == len(made)
    assert [len(each) for each in saved] == [len(each) for each in made]
    for before, now in zip(saved, made, strict=True):
        for one, other in zip(before, now, strict=True):
            assert blur(one) == blur(other)
    assert "done" in made[-3][0]


def blur(text: str) -> str:
    """Without what the machine decides: times, last digits of losses and scores, widths of columns."""
    return re.sub(r"[\s\[\]#.]+", " ", re.sub(r"-?\d+\.\d+|\d+ (?:s|min|seconds)\b", "N", text))
