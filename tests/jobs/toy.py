"""Small sweeps of counting stages (tests/jobs/counting_stage.py), and what is asked of a store after them."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.job import Estimate, Job, Resources
from jobs.local.runner import LocalRunner, RunnerEvent, RunnerResult, StopRequest
from jobs.local.runner_lock import read_runner_queue
from jobs.local.slots import Slots
from jobs.reconcile.snapshot import ClusterReport, SweepSnapshot, load_snapshot
from jobs.reconcile.state import JobState
from jobs.store.paths import RunPaths, Store
from sweep.plan.manifest import Cell, FinetuneChain, Manifest, write_manifest

COUNTING_STAGE = (sys.executable, "-S", str(Path(__file__).with_name("counting_stage.py")))
SWEEP = "toy"
ROOT = Path(__file__).parent.parent.parent


def toy_job(
    key: str,
    *parents: str,
    phase: str = "pretrain",
    cells: Sequence[str] = (),
    resources: Resources | None = None,
    **config: Any,
) -> Job:
    """A job of `steps` steps (3 unless told)."""
    return Job(
        key=key,
        stage="pretrain" if phase == "trunk" else phase,
        version=1,
        phase=phase,
        parents=parents,
        config={"steps": 3, **config},
        cells=tuple(cells),
        resources=resources or Resources(),
        estimate=Estimate(flops=1e9),
    )


def small_graph(**config: Any) -> list[Job]:
    """Two trunk segments, a cell on each with two fine-tunes and their evaluations: twelve jobs."""
    jobs = [toy_job("trunk1", phase="trunk", **config), toy_job("trunk2", "trunk1", phase="trunk", **config)]
    for cell, trunk in (("a", "trunk1"), ("b", "trunk2")):
        jobs.append(toy_job(f"{cell}-pre", trunk, cells=[cell], **config))
        for epochs in (1, 2):
            jobs.append(toy_job(f"{cell}-ft{epochs}", f"{cell}-pre", phase="finetune", cells=[cell], **config))
            jobs.append(toy_job(f"{cell}-ev{epochs}", f"{cell}-ft{epochs}", phase="evaluate", cells=[cell], **config))
    return jobs


def plan(store: Store, jobs: Sequence[Job], *, sweep: str = SWEEP, backend: str = "local") -> None:
    """Writes the manifest."""
    names = dict.fromkeys(cell for job in jobs for cell in job.cells)
    cells = tuple(_cell(name, jobs) for name in names)
    write_manifest(
        store.locate_sweep(sweep).manifest,
        Manifest(sweep=sweep, backend=backend, data={"words": "/data/words"}, cells=cells, jobs=tuple(jobs)),
    )


def _cell(name: str, jobs: Sequence[Job]) -> Cell:
    own = [job for job in jobs if name in job.cells]
    pretrain = next((job.key for job in own if job.phase == "pretrain"), own[0].key)
    evaluations = {job.parents[0]: job.key for job in own if job.phase == "evaluate"}
    chains = [
        FinetuneChain(epochs=1, finetune=finetune, evaluate=evaluate) for finetune, evaluate in evaluations.items()
    ]
    return Cell(name=name, axes={}, pretrain=pretrain, chains=tuple(chains))


def local_run(
    store: Store, jobs: Sequence[Job], *, cpus: int = 2, heard: list[RunnerEvent] | None = None, **options: Any
) -> LocalRunner:
    report = (lambda _progress: None) if heard is None else heard.append
    settings = {"slots": Slots(cpus), "program": COUNTING_STAGE, **options}
    return LocalRunner(SweepSnapshot(jobs, store, SWEEP), report=report, **settings)


def submit(store: Store, jobs: Sequence[Job], **options: Any) -> RunnerResult:
    """Plans and runs to the end in this process."""
    plan(store, jobs)
    return local_run(store, jobs, **options).run(StopRequest())


def picture(store: Store, jobs: Sequence[Job]) -> SweepSnapshot:
    """What another process sees."""
    return load_snapshot(jobs, store, SWEEP, ClusterReport(observations=read_runner_queue(store, SWEEP)))


def states(store: Store, jobs: Sequence[Job]) -> dict[str, JobState]:
    return {key: status.state for key, status in picture(store, jobs).statuses.items()}


def results(store: Store, jobs: Sequence[Job]) -> dict[str, str]:
    """The value that every finished job arrived at."""
    found = {}
    for job in jobs:
        path = run_of(store, job).result
        if path.exists():
            found[job.key] = str(json.loads(path.read_text())["value"])
    return found


def run_of(store: Store, job: Job) -> RunPaths:
    return store.locate_run(job.stage, job.key)


def open_gate(store: Store, job: Job) -> None:
    """Lets a job go on that waits at its `gate_at`, or will."""
    folder = run_of(store, job).root
    folder.mkdir(parents=True, exist_ok=True)  # of a job that has not begun
    (folder / "gate_open").touch()


def executions(store: Store, job: Job) -> list[dict[str, Any]]:
    """What the stage's own log says, oldest first."""
    path = run_of(store, job).root / "executions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def count(store: Store, job: Job, event: str) -> int:
    return Counter(line["event"] for line in executions(store, job))[event]


def assert_nothing_lost_or_doubled(store: Store, jobs: Sequence[Job], expected: dict[str, str]) -> None:
    """The results of an undisturbed run, no two executions of a key at once, none twice to completion."""
    assert results(store, jobs) == expected
    for job in jobs:
        assert count(store, job, "overlap") == 0, f"{job.key} ran twice at once"
        assert count(store, job, "completed") <= 1, f"{job.key} ran twice to completion"
