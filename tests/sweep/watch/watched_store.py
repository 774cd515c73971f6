"""Stores of any size for the live view: done, running, failed and waiting jobs, as attempts leave them."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from jobs.job import Job
from jobs.processes import read_boot_id
from jobs.store.paths import Store, write_json
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from tests.jobs import toy


def make_jobs(count: int, cell: str = "m1m-b{}-i50") -> list[Job]:
    """Cells of a run with four fine-tunes and their evaluations; of the last one as many as are wanted."""
    jobs: list[Job] = []
    for number in range(-(-count // 9)):
        name = cell.format(number)
        pretrain = toy.toy_job(f"pre{number:05}", cells=[name])
        jobs.append(pretrain)
        for epochs in range(4):
            finetune = toy.toy_job(f"ft{number:05}x{epochs}", pretrain.key, phase="finetune", cells=[name])
            jobs += [
                finetune, toy.toy_job(f"ev{number:05}x{epochs}", finetune.key, phase="evaluate", cells=[name])
            ]  # fmt: skip
    return jobs[:count]


def write_start(
    store: Store, job: Job, *, host: str = "", attempt: str = "local-0001", ago: float = 90.0, batch: str = ""
) -> None:
    """An attempt that began so many seconds ago, on this machine or a named host."""
    paths = toy.run_of(store, job).locate_attempt(attempt)
    here = os.uname().nodename
    start = AttemptStart(
        attempt=attempt, key=job.key, stage=job.stage, backend="local", host=host or here, pid=1, pid_started=0.0,
        boot_id="elsewhere" if host else read_boot_id(), started_at=time.time() - ago, cpus=1,
    )  # fmt: skip
    if batch:
        start = replace(start, backend="slurm", job_id=attempt.split("-")[1], batch=batch, node=host)
    start.write(paths.start)
    paths.log.write_text("10:00:00Z  begins at step 0 of 300, on 2026-11-30\n")


def write_metrics(store: Store, job: Job, steps: Sequence[int]) -> None:
    """Lines of a loss that falls, a second for ten steps."""
    now = time.time()
    lines = [
        {"step": step, "total_steps": 300, "loss": 5 - step / 100, "tokens_per_second": 12_345.0,
         "time": now - (steps[-1] - step) / 10}
        for step in steps
    ]  # fmt: skip
    with toy.run_of(store, job).metrics.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def write_end(store: Store, job: Job, message: str = "", attempt: str = "local-0001") -> None:
    """Of a job that is done, or of one that failed with a message."""
    run = toy.run_of(store, job)
    failure = FailureClass.CODE if message else None
    AttemptExit(
        attempt=attempt, key=job.key, ended_at=time.time(), returncode=1 if message else 0, failure=failure,
        message=message,
    ).write(run.locate_attempt(attempt).exit)  # fmt: skip
    if not message:
        write_json(run.result, {
            "format": 1, "key": job.key, "stage": job.stage, "finished_at": time.time(), "seconds": 60.0, "files": {},
        })  # fmt: skip


@contextmanager
def open_watched_store(
    root: Path, jobs: Sequence[Job], *, done: int, running: int, failed: str = ""
) -> Iterator[Store]:
    """The first `done` jobs are done, the next ones run, and with a message in `failed` the one behind them failed."""
    store = Store(root)
    toy.plan(store, jobs)
    held = []
    try:
        for number, job in enumerate(jobs[: done + running + bool(failed)]):
            write_start(store, job)
            if number < done:
                write_end(store, job)
            elif number < done + running:
                write_metrics(store, job, range(10, 210, 10))
                held.append(hold(store, job))
            else:
                write_end(store, job, failed)
        yield store
    finally:
        for descriptor in held:
            os.close(descriptor)


def hold(store: Store, job: Job) -> int:
    """The job's lock, as its attempt holds it."""
    descriptor = os.open(toy.run_of(store, job).lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor
