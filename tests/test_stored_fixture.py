"""A store that version 0.1 left is read by every later version, and work goes on from it."""

import re
import sys
from pathlib import Path

import pytest

from tests.oracle.compare import differences
from tests.oracle.program import Program
from tests.oracle.stored import EXPECTED, record_stored, unpack
from tests.oracle.world import make_world

ROOT = Path(__file__).parent.parent
ANEW = "if that is meant, write the record anew: python -m tests.oracle expect"
pytestmark = pytest.mark.timeout(900)
NEXT = "e27469d1423bc492"
"""A pre-training that is still to be done, on the stored trunk."""


def program(tmp_path: Path) -> Program:
    return Program(tree=ROOT, python=Path(sys.executable), folder=tmp_path)


def test_what_is_said_of_it_and_its_tables_are_those_of_before(tmp_path: Path) -> None:
    record_stored(program(tmp_path), tmp_path / "scratch", tmp_path / "now")
    found = differences(EXPECTED, tmp_path / "now")
    assert not found, "\n".join([ANEW, *found])


def test_a_job_goes_on_from_a_stored_checkpoint(tmp_path: Path) -> None:
    store = unpack(tmp_path)
    make_world(store / "data", tmp_path / "engine")
    sweep = program(tmp_path)
    planned = sweep.run("plan", store / "sweeps" / "kept" / "sweep.yaml", store=store)
    assert planned.code == 0, planned.text
    assert re.search("done +15 of 32 jobs", planned.out)
    sent = sweep.run("submit", "kept", "--only", NEXT, store=store)
    assert sent.code == 0, sent.text
    assert (store / "runs" / "pretrain" / NEXT / "result.json").exists()
    exported = sweep.run(
        "export", "kept", "mtiny-b0-i50-c0-x1", "--epochs", "1", "--out", tmp_path / "out", store=store
    )
    assert exported.code == 0, exported.text
    assert (tmp_path / "out" / "model.safetensors").exists()
