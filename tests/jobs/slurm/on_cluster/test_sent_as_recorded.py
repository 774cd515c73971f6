"""Every sbatch call of a sweep with all options is the recorded one: arguments, script, environment, order."""

import sys
from pathlib import Path

import pytest

from tests.oracle.compare import differences
from tests.oracle.program import Program
from tests.oracle.submissions import EXPECTED, Watch, drain, record_options
from tests.slurm_lab.lab import Lab

ROOT = Path(__file__).parents[4]
ANEW = "if that is meant, write the record anew: python -m tests.oracle expect"


@pytest.mark.timeout(2_500)
def test_a_sweep_with_every_option_is_sent_as_recorded(slurm: Lab, tmp_path: Path) -> None:
    drain(slurm)
    here = tmp_path / "here"
    here.mkdir()
    program = Program(tree=ROOT, python=Path(sys.executable), folder=here)
    record_options(program, Watch(tmp_path / "watch", slurm.env), tmp_path, tmp_path / "now", questions=False)
    found = differences(EXPECTED, tmp_path / "now")
    assert not found, "\n".join([ANEW, *found])
