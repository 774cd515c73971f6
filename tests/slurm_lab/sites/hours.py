"""What a sweep took, by sources that our own accounting is not asked about: sacct's text, Slurm's job completion log,
the bare JSON of attempts. Nothing of sweep/ or jobs/ is imported here."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.slurm_lab import Lab

SOON_SECONDS = 3.0
"""By how much an attempt's own record is shorter than Slurm's row, at most: the launch of its batch script, and whole
seconds."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Over all executions that ended."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0
    executions: int = 0

    def is_near(self, other: "Sum", within: float = 1e-3) -> bool:
        """Whether GPU-seconds and core-seconds are equal; `within` is for sums of floating-point numbers."""
        return abs(self.gpu_seconds - other.gpu_seconds) < within and abs(self.cpu_seconds - other.cpu_seconds) < within


def list_rows(lab: Lab, sweep: str) -> list[dict[str, str]]:
    """Every execution of the sweep's jobs, as sacct prints it to an administrator."""
    fields = ("JobID", "JobName", "State", "ElapsedRaw", "AllocTRES", "AllocCPUS", "End", "User")
    # with -j alone sacct shows jobs that never got past a dependency, and those have taken no time
    text = lab.output("sacct", "-n", "-P", "-D", "-X", "-a", "-S", "now-1days", "-o", ",".join(fields))
    rows = [dict(zip(fields, line.split("|"), strict=True)) for line in text.splitlines()]
    return [row for row in rows if row["JobName"].endswith(f"-{sweep}")]


def sum_rows(rows: list[dict[str, str]]) -> Sum:
    """`gres/gpu=` alone counts: `gres/gpu:a100=` counts the same devices once more."""
    seconds = gpus = cpus = 0.0
    ran = 0
    for row in rows:
        wall = int(row["ElapsedRaw"])
        devices = re.search(r"(?:^|,)gres/gpu=(\d+)", row["AllocTRES"])
        seconds += wall
        gpus += wall * int(devices[1]) if devices else 0
        cpus += wall * int(row["AllocCPUS"])
        ran += wall > 0
    return Sum(seconds, gpus, cpus, ran)


def sum_attempts(store: Path) -> Sum:
    """By what the attempts wrote down themselves."""
    seconds = gpus = cpus = 0.0
    ran = 0
    for begin, end in _attempts(store):
        wall = max(0.0, end["ended_at"] - begin["started_at"])
        seconds += wall
        gpus += wall * begin["gpus"]
        cpus += wall * begin["cpus"]
        ran += 1
    return Sum(seconds, gpus, cpus, ran)


def list_job_ids(store: Path) -> set[str]:
    """Those that Slurm gave to the jobs of all attempts, as sacct prints them."""
    return {begin["job_id"] for begin, _ in _attempts(store)}


def _attempts(store: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for path in store.glob("runs/*/*/attempts/*/exit.json"):
        yield json.loads(path.with_name("start.json").read_text()), json.loads(path.read_text())


def sum_completion_log(log: Path, sweep: str) -> Sum:
    """By the log of jobcomp/filetxt, which knows of no GPUs: wall seconds and executions."""
    seconds, ran = 0.0, 0
    for line in log.read_text().splitlines():
        words = dict(word.partition("=")[::2] for word in line.split())
        if words.get("Name", "").endswith(f"-{sweep}"):
            begin, end = (datetime.fromisoformat(words[name]) for name in ("StartTime", "EndTime"))
            seconds += (end - begin).total_seconds()
            ran += 1
    return Sum(seconds=seconds, executions=ran)
