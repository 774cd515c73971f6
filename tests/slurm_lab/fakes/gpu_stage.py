"""A counting stage that needs a GPU, run as `python gpu_stage.py FOLDER JOB_JSON`.

Simulated is only what the driver answers: a node has a GPU unless FOLDER has a file of its name. What follows is real:
the stages' own choice of a device, their error and its record.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any, cast

import torch

from stages.__main__ import record_failure
from stages.distributed import select_device
from stages.errors import StageError
from stages.job_file import JobFile
from tests.jobs import toy


class _Job:
    """What the record of a failure asks of a job."""

    def __init__(self, path: Path) -> None:
        self.run = path.parent
        self.error = path.parent / json.loads(path.read_text())["paths"]["error"]


def main(gone: Path, job: Path) -> None:
    there = not (gone / os.environ["SLURMD_NODENAME"]).exists()
    driver: Any = torch
    driver.version.cuda = "13.0"
    driver.cuda.is_available = lambda: there
    driver.cuda.device_count = lambda: int(there)
    try:
        select_device("cuda")
    except StageError as error:
        record_failure(cast("JobFile", _Job(job)), error, traceback.format_exc())
        raise SystemExit(1) from None
    sys.argv = [toy.COUNTING_STAGE[-1], str(job)]
    runpy.run_path(toy.COUNTING_STAGE[-1], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
