"""The command line of an attempt, which clusters write."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SLURM = "slurm"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOptions:
    """Which job runs where: a field for each argument of `parse_options`."""

    store: Path
    sweep: str
    key: str
    attempt: str
    """Unique among the attempts of the job."""
    backend: str
    cpus: int
    """Cores over all nodes, as `gpus`."""
    gpus: int
    nodes: int
    gpu_type: str
    job_id: str
    """The cluster's id, such as 123_4; empty on one machine, as `batch`."""
    batch: str
    """Slurm's job name of the batch that the job was sent with."""
    restart: int
    """How often the cluster had requeued the job before."""
    revision: str
    """Of the code; empty: that of the checkout it runs from."""
    program: Sequence[str]
    """The stage's command; the path of job.json is added to it."""


def parse_options(arguments: Sequence[str] | None) -> AttemptOptions:
    """The options in `arguments`, or in this process's command line. SystemExit on wrong usage.

    What follows `--` is the stage's program.
    """
    parser = argparse.ArgumentParser(prog="python -m jobs.attempt", description="Run one attempt of one job.")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--sweep", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--attempt", required=True, help="name of the attempt, unique among the job's")
    parser.add_argument("--backend", default="local")
    parser.add_argument("--cpus", type=int, default=1, help="over all nodes, as gpus")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpu-type", default="")
    parser.add_argument("--job-id", default="", help="the cluster's id, such as 123_4")
    parser.add_argument("--batch", default="", help="job name of the batch that it was sent with")
    parser.add_argument("--restart", type=int, default=0, help="how often the cluster had requeued it before")
    parser.add_argument("--revision", default="", help="of the code that runs; else what is found beside it")
    parser.add_argument("program", nargs="+", help="the stage's program; job.json's path is added to it")
    return AttemptOptions(**vars(parser.parse_args(arguments)))
