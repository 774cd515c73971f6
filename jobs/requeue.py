"""A job that saved ahead of its time limit puts itself back into Slurm's queue."""

import sys

from jobs.reconcile.attempts import read_outcomes
from jobs.reconcile.failures import EXIT_SAVED
from jobs.reconcile.retries import Verdict, verdict
from jobs.slurm.timeouts import Patience
from jobs.store.paths import RunPaths
from jobs.store.records import AttemptExit, FailureClass

SCONTROL_SECONDS = 60.0


def wants_requeue(run: RunPaths, end: AttemptExit, *, restarts: int) -> bool:
    """Whether the time limit alone ended it, and the budget allows another attempt. `restarts`: planned ones."""
    if end.failure is not FailureClass.WALL_CLOCK or end.returncode != EXIT_SAVED:
        return False
    return verdict(read_outcomes(run, live=False), restarts=restarts) is Verdict.GO_ON


def requeue(job_id: str) -> bool:
    """`scontrol requeue`; what follows in this process may not run any more. False, with a line on stderr, where Slurm
    refuses or does not answer: `sweep tick` sends the job anew."""
    from jobs.slurm.client import SlurmClient  # for these attempts alone: it is a quarter of their start-up time

    problem = SlurmClient(Patience(call=SCONTROL_SECONDS)).requeue(job_id)
    if problem:
        print(f"scontrol requeue {job_id}: {problem}", file=sys.stderr)
    return not problem
