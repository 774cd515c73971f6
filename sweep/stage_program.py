"""What runs in a job: the stages' own entry, or what the environment puts in its place."""

import os
from collections.abc import Sequence

from jobs.local import cluster

PROGRAM_VARIABLE = "SWEEP_STAGE_PROGRAM"
"""For trying the machinery without training: words that run in a stage's place, separated by spaces."""


def stage_program() -> Sequence[str]:
    """Words to which the path of job.json is added."""
    return os.environ.get(PROGRAM_VARIABLE, "").split() or cluster.STAGE_PROGRAM
