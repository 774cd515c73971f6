"""Makes attempts on disk and endings by the cluster's account, for tests."""

import os
from pathlib import Path
from typing import Any

from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord
from jobs.store.paths import AttemptPaths, RunPaths
from jobs.store.records import AttemptExit, AttemptStart, FailureClass

JOB, BATCH = "12_3", "sw-0123456789ab-pretrain-toy"


def ending(state: str = "COMPLETED", started_at: float = 100.0, seconds: int = 60, **changes: Any) -> AccountingRecord:
    """One row, of GPUs 4 and CPUs 8 on node n1 unless told; it was submitted when it started."""
    content: dict[str, Any] = {
        "id": JOB,
        "batch": BATCH,
        "key": "k",
        "state": state,
        "submitted_at": started_at,
        "started_at": started_at,
        "ended_at": started_at + seconds,
        "elapsed_seconds": seconds,
        "gpus": 4,
        "cpus": 8,
        "nodes": "n1",
    }
    return AccountingRecord(**{**content, **changes})


def pending_ending(state: str = "CANCELLED", at: float = 100.0, **changes: Any) -> AccountingRecord:
    """A row of a job that was taken from the queue: start and end are that moment, and it had no node."""
    return ending(state, at, 0, nodes="", gpus=0, cpus=0, **changes)


def begin(run: RunPaths, restart: int = 0, started_at: float = 101.0, **changes: Any) -> AttemptStart:
    """start.json of an attempt of that job, on another machine."""
    content: dict[str, Any] = {
        "attempt": f"slurm-{JOB}-r{restart}",
        "key": "k",
        "stage": "pretrain",
        "backend": "slurm",
        "host": "elsewhere",
        "pid": 1,
        "pid_started": 1.0,
        "boot_id": "another",
        "started_at": started_at,
        "cpus": 8,
        "gpus": 4,
        "gpu_type": "a100",
        "job_id": JOB,
        "batch": BATCH,
        "restart": restart,
        "node": "n1",
    }
    start = AttemptStart(**{**content, **changes})
    start.write(path := run.locate_attempt(start.attempt).start)
    os.utime(path, (start.started_at, start.started_at))
    return start


def end(
    run: RunPaths, start: AttemptStart, failure: FailureClass | None, ended_at: float, **changes: Any
) -> AttemptExit:
    """exit.json."""
    content: dict[str, Any] = {"returncode": 1 if failure else 0, "message": "own words" if failure else ""}
    record = AttemptExit(attempt=start.attempt, key="k", ended_at=ended_at, failure=failure, **{**content, **changes})
    record.write(run.locate_attempt(start.attempt).exit)
    return record


def outcome(
    failure: FailureClass | None = None,
    *,
    key: str = "k",
    node: str = "n1",
    at: float = 100.0,
    seconds: float = 60.0,
    **changes: Any,
) -> AttemptRecord:
    """An attempt in memory. `changes`: fields of AttemptRecord, or of its end."""
    own = {
        name: changes.pop(name) for name in ("began", "advanced", "accounting_record", "recorded") if name in changes
    }
    start = AttemptStart(
        attempt=f"{key}-{at:g}",
        key=key,
        stage="pretrain",
        backend="slurm",
        host=node,
        pid=1,
        pid_started=0.0,
        boot_id="b",
        started_at=at,
        cpus=8,
        gpus=4,
        node=node,
        job_id=JOB,
        batch=BATCH,
    )
    record = AttemptExit(
        attempt=start.attempt,
        key=key,
        ended_at=at + seconds,
        returncode=0,
        failure=failure,
        **{"message": "why" if failure else "", **changes},
    )
    return AttemptRecord(paths=AttemptPaths(Path("/nowhere") / start.attempt), start=start, end=record, **own)
