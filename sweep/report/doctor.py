"""`sweep doctor`: which examinations it makes, and its report as text and as JSON (docs/json.md, section `doctor`)."""

import getpass
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.job import Job, Resources
from jobs.slurm.client import SlurmClient
from jobs.slurm.doctor.checks import client_checks, has_slurm, plan_checks, site_checks
from jobs.slurm.doctor.node_test import NodeTest
from jobs.slurm.site import read_site
from jobs.store.checks import Check, Verdict, note, problem, store_checks
from jobs.store.results import finished_keys
from sweep.cost.estimate import BYTES_OF_TRAINING_STATE, BYTES_OF_WEIGHT
from sweep.stored_sweep import StoredSweep
from sweep.text_format import columns

SAVED_WITH_OPTIMIZER = {"trunk": 1.0, "pretrain": BYTES_OF_TRAINING_STATE / BYTES_OF_WEIGHT}
"""Bytes of a checkpoint while training, times those that are kept at the end; fine-tunes are as image-text runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What is looked at."""

    store: Path
    planned: StoredSweep | None = None
    """None: no sweep was named, so only what holds for any is looked at."""
    node_test: bool = False
    wait_seconds: float = 120.0

    @property
    def sweep(self) -> str | None:
        return self.planned.manifest.sweep if self.planned else None

    def checks(self) -> Iterator[Check]:
        """Each finding as it is made."""
        jobs = self.unfinished()
        slurm = has_slurm()
        if slurm:
            yield from self.slurm_checks(jobs)
        elif self.planned is not None and self.planned.manifest.backend == "slurm":
            yield problem("clients", "no Slurm on this machine", "go to a login node, or submit with --backend local")
        else:
            yield note("clients", "no Slurm on this machine; sweeps run here with --backend local")
        needed = sum(job.estimate.checkpoint_bytes for job in jobs)
        yield from store_checks(self.store, needed_bytes=needed, shared=slurm)
        if self.node_test and slurm:
            yield from self.node_checks(jobs)

    def unfinished(self) -> Sequence[Job]:
        """The plan's jobs that have no result yet."""
        if self.planned is None:
            return ()
        done = finished_keys(self.planned.store, self.planned.manifest.jobs)
        return [job for job in self.planned.manifest.jobs if job.key not in done]

    def slurm_checks(self, jobs: Sequence[Job]) -> Iterator[Check]:
        client = SlurmClient()
        found = list(client_checks(client, dict(os.environ)))
        yield from found
        if any(check.verdict is Verdict.PROBLEM for check in found):
            return
        site = read_site(client, getpass.getuser())
        yield from site_checks(site)
        if self.planned is not None:
            yield from plan_checks(site, jobs, largest_save_bytes=max(map(saved_bytes, jobs), default=0))

    def node_checks(self, jobs: Sequence[Job]) -> Iterator[Check]:
        resources = jobs[0].resources if jobs else Resources()
        yield from NodeTest(SlurmClient(), self.store, resources, self.wait_seconds).run()


def saved_bytes(job: Job) -> int:
    """One checkpoint of the job while it trains."""
    return round(job.estimate.checkpoint_bytes * SAVED_WITH_OPTIMIZER.get(job.phase, SAVED_WITH_OPTIMIZER["pretrain"]))


def report_json(examination: Examination, checks: Sequence[Check]) -> dict[str, Any]:
    """The report as JSON types."""
    return {
        "format": 1,
        "sweep": examination.sweep,
        "store": str(examination.store),
        "problems": problems(checks),
        "checks": [
            {"check": each.name, "verdict": each.verdict.value, "text": each.text, "advice": each.advice}
            for each in checks
        ],
    }


def problems(checks: Sequence[Check]) -> int:
    """How many findings would stop a sweep."""
    return sum(check.verdict is Verdict.PROBLEM for check in checks)


def report_text(checks: Sequence[Check]) -> str:
    """A line each: verdict, what was looked at, what was found, what to do."""
    rows = [[each.verdict.value, each.name, told(each)] for each in checks]
    return "\n".join(columns(rows, left=3))


def told(check: Check) -> str:
    """Finding and advice; a text of Slurm's or of a node's may hold anything, and stays one printable line."""
    text = f"{check.text}; {check.advice}" if check.advice else check.text
    return "".join(letter if letter.isprintable() else " " for letter in text)
