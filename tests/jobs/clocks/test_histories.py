"""No clock decides: random histories on machines whose clocks differ by up to three hours."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_nothing_runs_twice_or_is_lost_where_clocks_differ_by_hours(tmp_path: Path) -> None:
    """In a process of its own, as each command is a fork of it."""
    command = [sys.executable, "-m", "tests.jobs.clocks", "--histories", "2", "--steps", "2", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
