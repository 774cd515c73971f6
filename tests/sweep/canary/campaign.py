"""A campaign of shapes that are broken in six ways, and of two that are not, with a stage that stands in for training
and evaluation (tests/jobs/counting_stage.py): it fails as a shape's jobs would, and counts who ran."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobs.job import Estimate, Job, Resources
from tests.jobs import toy

JOBS_OF_A_SHAPE = 6
WAYS: dict[str, dict[str, Any]] = {
    "oom": {"fail": "out_of_memory"},
    "data": {"fail": "data"},
    "nan": {"fail": "diverged"},
    "nogpu": {"fail": "node_fault"},
    "slow": {"tells_step_seconds": 60.0},
    "task": {"fail": "code"},
}
"""Stand-ins, by the class of failure that the stages give it; `slow`: five times the planned 12 s a step."""
HEALTHY = ("well", "asked")
PLANNED = Estimate(cpu_hours=36 / 3600, flops=1e9)


def build_campaign(resources: Resources | None = None, **healthy: Any) -> list[Job]:
    """A base, and six jobs of each broken shape and of two sound ones. `task` and `asked` are evaluations of the base,
    the others trainings."""
    jobs = [toy.toy_job("base", cells=["base"], resources=resources, model={"d": 99})]
    for width, (way, config) in enumerate([*WAYS.items(), *((name, healthy) for name in HEALTHY)]):
        for number in range(JOBS_OF_A_SHAPE):
            phase = "evaluate" if way in {"task", "asked"} else "pretrain"
            shape: dict[str, Any] = {"text_tasks": [{"name": way}]} if phase == "evaluate" else {"model": {"d": width}}
            name = f"{way}{number}"
            job = toy.toy_job(
                name,
                *(["base"] if phase == "evaluate" else []),
                phase=phase,
                cells=[name],
                resources=resources,
                tells_step_seconds=12.0,
                seed=number,
            )
            jobs.append(replace(job, config={**job.config, **shape, **config}, estimate=PLANNED))
    return jobs


def select_way(jobs: Sequence[Job], way: str) -> list[Job]:
    return [job for job in jobs if job.key.rstrip("0123456789") == way]
