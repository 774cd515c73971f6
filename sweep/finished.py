"""Which of a plan's jobs are done, and which have begun, by what is in the store."""

import os
from collections.abc import Iterable
from pathlib import Path

from jobs.job import Job
from jobs.store.paths import Store
from jobs.store.results import check_result


def begun_keys(store: Store, jobs: Iterable[Job]) -> frozenset[str]:
    """Keys of the jobs that have a folder: an attempt has begun. One listing for each stage, however many jobs."""
    folders: dict[str, frozenset[str]] = {}
    begun = []
    for job in jobs:
        if job.stage not in folders:
            folders[job.stage] = names_in(store.runs / job.stage)
        if job.key in folders[job.stage]:
            begun.append(job.key)
    return frozenset(begun)


def finished_keys(store: Store, jobs: Iterable[Job]) -> frozenset[str]:
    """Keys of the jobs that have a valid result."""
    jobs = tuple(jobs)
    begun = begun_keys(store, jobs)
    return frozenset(
        job.key for job in jobs if job.key in begun and check_result(store.run(job.stage, job.key), job.key).valid
    )


def names_in(folder: Path) -> frozenset[str]:
    """Names of a folder's entries; none where there is no folder."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names, not 100,000 Path objects
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
