"""The jobs of one season, and the values that they must arrive at: computed here, without running anything."""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.job import Job, Resources
from tests.jobs.toy import toy_job

TRUNKS = 3
LONG_JOBS = 2
PREEMPTABLE = {"qos": "low"}


def season_graph(chance: random.Random, cells: int) -> list[Job]:
    """A trunk of three segments, `cells` cells that branch off it, each with two fine-tunes and their evaluations, and
    two jobs that run long enough for a time limit or a second copy.

    Some ask for GPUs, some may be preempted, some raise once.
    """
    jobs = []
    for number in range(TRUNKS):
        above = [f"trunk{number - 1}"] if number else []
        jobs.append(_job(chance, f"trunk{number}", *above, phase="trunk"))
    for number in range(cells):
        cell = f"c{number}"
        jobs.append(_job(chance, f"{cell}-pre", f"trunk{number % TRUNKS}", cells=[cell]))
        for epochs in (1, 2):
            jobs.append(_job(chance, f"{cell}-ft{epochs}", f"{cell}-pre", phase="finetune", cells=[cell]))
            jobs.append(_job(chance, f"{cell}-ev{epochs}", f"{cell}-ft{epochs}", phase="evaluate", cells=[cell]))
    long = {"steps": 100, "step_seconds": 0.3}
    jobs += [_job(chance, f"long{number}", cells=[f"long{number}"], **long) for number in range(LONG_JOBS)]
    return jobs


def _job(chance: random.Random, key: str, *parents: str, **changes: Any) -> Job:
    config: dict[str, Any] = {
        "steps": chance.randint(4, 10),
        "step_seconds": chance.choice((0.15, 0.25, 0.35)),
        "save_every": chance.choice((1, 1, 2, 3)),
    }
    if chance.random() < 0.15:
        config |= {"fail": "raise", "fail_times": 1, "fail_at": 2}
    gpus = chance.choice((0, 1))  # with two, it would be two processes
    resources = Resources(
        gpus_per_node=gpus,
        gpu_type="a100" if gpus else "",
        memory_gib=1.0,
        options=PREEMPTABLE if chance.random() < 0.5 else {},
    )
    return toy_job(key, *parents, resources=resources, **{**config, **changes})


def expected_values(jobs: Sequence[Job]) -> dict[str, str]:
    """What tests/jobs/counting_stage.py arrives at when nothing disturbs it. `jobs`: parents before children."""
    values: dict[str, str] = {}
    for job in jobs:
        values[job.key] = value_after(job.key, [values[parent] for parent in job.parents], job.config)
    return values


def value_after(key: str, parents: Sequence[str], config: Mapping[str, Any]) -> str:
    """A hash over the parents' values and every step in its order."""
    value = _digest("".join(parents))
    for step in range(1, int(config["steps"]) + 1):
        value = _digest(f"{key}:{value}:{step}")
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
