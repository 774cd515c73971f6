"""Rows of jobs.parquet: every job of the sweep once, with its whole cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.job import Job
from jobs.reconcile.attempts import Outcome
from sweep.results.evidence import JobEvidence
from sweep.results.lineage import ModelChain, cells_by_job, model_names, models_by_job
from sweep.results.schemas import JOBS
from sweep.results.values import number, pairs, whole

NUMBERS = {"seconds": "run_seconds", "tokens_per_second": "tokens_per_second", "loss": "loss"}
"""Fields of result.json that are numbers -> columns."""
COUNTS = ("steps", "tokens", "image_tokens", "images", "bad_samples")


def jobs_table(sweep: str, chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]) -> pa.Table:
    """In the manifest's order."""
    cells, models, names = cells_by_job(chains), models_by_job(chains), model_names(chains)
    rows = [
        {
            "sweep": sweep,
            "cells": cells.get(key, []),
            "models": models[key],
            "model": names.get(key),
            **job_values(found),
        }
        for key, found in evidence.items()
    ]
    return pa.Table.from_pylist(rows, schema=JOBS)


def job_values(found: JobEvidence) -> dict[str, Any]:
    """All columns that one job's own evidence decides."""
    job = found.job
    return {
        "key": job.key,
        "stage": job.stage,
        "phase": job.phase,
        "state": found.state,
        "parents": list(job.parents),
        **planned(job),
        **job_cost_values(found),
        **attempt_values(found.outcomes, done=found.done),
        **result_values(found.result),
        "started_at": milliseconds(found.outcomes[0].start.started_at) if found.outcomes else None,
        "finished_at": milliseconds(found.finished_at),
        "code_revision": found.code_revision,
    }


def planned(job: Job) -> dict[str, Any]:
    """The plan's estimate; cores beside a GPU count for as long as the GPU."""
    estimate, resources = job.estimate, job.resources
    beside = estimate.gpu_hours * resources.nodes * resources.cpus / resources.gpus if resources.gpus else 0.0
    return {
        "planned_a100_hours": estimate.a100_hours,
        "planned_gpu_hours": estimate.gpu_hours,
        "planned_cpu_hours": estimate.cpu_hours + beside,
    }


def job_cost_values(found: JobEvidence) -> dict[str, Any]:
    """What it took so far."""
    used, wasted = found.costs.used, found.costs.wasted
    return {
        "used_a100_hours": used.a100_hours,
        "used_gpu_hours": used.gpu_hours,
        "used_cpu_hours": used.cpu_hours,
        "wasted_a100_hours": wasted.a100_hours,
        "wasted_gpu_hours": wasted.gpu_hours,
        "wasted_cpu_hours": wasted.cpu_hours,
        "hours_source": found.costs.source,
        "overstated_seconds": found.costs.overstated_seconds if found.costs.source else None,
    }


def attempt_values(outcomes: Sequence[Outcome], *, done: bool) -> dict[str, Any]:
    """Number of attempts, and the last one's place and failure; of a finished job the one that finished it."""
    if not outcomes:
        return {"attempts": 0}
    last = outcomes[-1]
    if done:
        last = next((each for each in reversed(outcomes) if each.end and each.failure is None), last)
    return {
        "attempts": len(outcomes),
        "node": last.node,
        "backend": last.start.backend,
        "gpu_type": last.start.gpu_type or None,
        "gpus": last.start.gpus,
        "cpus": last.start.cpus,
        "failure": str(last.failure) if last.failure else None,
        "failure_message": last.end.message if last.end and last.failure else None,
    }


def result_values(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a valid result.json tells; nothing without one."""
    if result is None:
        return {}
    sizes = [whole(size) or 0 for size in result["files"].values()]
    return {
        **{column: number(result.get(field)) for field, column in NUMBERS.items()},
        **{name: whole(result.get(name)) for name in COUNTS},
        "checkpoint_bytes": sum(sizes),
        "versions": pairs(result.get("versions")),
    }


def milliseconds(seconds: float | None) -> int | None:
    """A Unix time as the tables' timestamps want it; None where it is absent or no time."""
    return round(1000 * seconds) if seconds and math.isfinite(seconds) and abs(seconds) < 1e11 else None
