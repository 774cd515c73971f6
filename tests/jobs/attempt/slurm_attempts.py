"""Attempts as a batch script starts them, with no cluster behind: two at once are two processes of this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.claims.claims import find_newest_claim
from jobs.store.paths import AttemptPaths, RunPaths, Store
from jobs.store.records import AttemptExit
from tests.jobs import toy

BATCH = "sw-aaaaaabbbbbb-pretrain-toy"
TAKEOVER_SECONDS = 3.0


def planned(store: Store, **config: Any) -> RunPaths:
    """The run of a sweep with one job, `only`."""
    job = toy.toy_job("only", **config)
    toy.plan(store, [job], backend="slurm")
    return toy.run_of(store, job)


def name_of(job_id: str, restart: int) -> str:
    return f"slurm-{job_id}-r{restart}-aaaaaa"


def start(
    store: Store, *, key: str = "only", job_id: str = "7_0", restart: int = 0, **variables: str
) -> subprocess.Popen[str]:
    """One incarnation, with heartbeats every 0.2 s unless `variables` say else."""
    place = ["--store", str(store.root), "--sweep", toy.SWEEP, "--key", key, "--attempt", name_of(job_id, restart)]
    slurm = ["--backend", "slurm", "--job-id", job_id, "--batch", BATCH, "--restart", str(restart), "--revision", "r1"]
    environment = os.environ | {"SWEEP_TAKEOVER_SECONDS": str(TAKEOVER_SECONDS), "PATH": "/nowhere", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.attempt", *place, *slurm, "--", *toy.COUNTING_STAGE],
        cwd=toy.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    """Exit code and what it said."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def paths_of(run: RunPaths, restart: int = 0, job_id: str = "7_0") -> AttemptPaths:
    return run.locate_attempt(name_of(job_id, restart))


def end_of(run: RunPaths, restart: int = 0, job_id: str = "7_0") -> AttemptExit:
    end = AttemptExit.read(paths_of(run, restart, job_id).exit)
    assert end is not None
    return end


def saved_steps(run: RunPaths) -> int:
    return len(list(run.checkpoints.glob("step-*")))


def claim_number(run: RunPaths) -> int:
    found = find_newest_claim(run.claims)
    return found.number if found else 0


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
