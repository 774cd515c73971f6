"""The counting stage for jobs of several GPUs, which has one process: the first rank counts, the others end at once."""

import os
import sys
from pathlib import Path

COUNTING_STAGE = Path(__file__).parents[2] / "jobs" / "counting_stage.py"

if __name__ == "__main__" and os.environ.get("RANK", "0") == "0":
    os.execv(sys.executable, [sys.executable, "-S", str(COUNTING_STAGE), *sys.argv[1:]])  # noqa: S606 - a list, no shell
