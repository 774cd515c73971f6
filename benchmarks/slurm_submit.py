"""Submission of the paper's 2,710 dependent jobs to a real Slurm of the tests, beside submitit on the same graph.

    python benchmarks/slurm_submit.py [--sample 100]

The cluster is the tests' own (`apt-get install slurmctld slurmd slurm-client munge slurmdbd mariadb-server`), its nodes
drained, so that nothing runs while things are counted. Own CPU is the whole process of one command, interpreter
included, without Slurm's programs that it starts. No pause is made between sbatch calls (usually a second).

submitit (`pip install submitit`) waits 0.2 s after each job by design; so it gets a sample of the graph's jobs, parents
first, one `submit` each with `afterok` on their parents, and one `map_array` of as many. Its CPU is counted from after
its import.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jobs.job import Job  # noqa: E402 - the tests' package is found from the root
from jobs.store.paths import Store  # noqa: E402
from sweep.plan.manifest import Manifest, read_manifest, write_manifest  # noqa: E402
from tests.jobs.toy import COUNTING_STAGE  # noqa: E402
from tests.slurm_lab import Lab, Options  # noqa: E402
from tests.slurm_lab.slurm_toy import drain, files_below, plan_paper_graph, resume  # noqa: E402
from tests.sweep.synthetic_store import Written, finish  # noqa: E402

FAILED_CELLS = 17
REPEAT = 5
"""Of reading commands; the least CPU time counts."""
SETTLE_SECONDS = 120
COMMAND = """
import atexit, os, resource, runpy
def tell():
    own = resource.getrusage(resource.RUSAGE_SELF)
    with open(os.environ["OWN_CPU"], "w") as file:
        file.write(str(own.ru_utime + own.ru_stime))
atexit.register(tell)
runpy.run_module("sweep", run_name="__main__")
"""
"""`python -m sweep`, which tells its own CPU time at its end."""


@dataclass(frozen=True)
class Measured:
    """One command."""

    wall: float
    """Seconds."""
    own: float
    """CPU seconds of its process."""
    report: Any
    """What it printed, as JSON."""


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sample", type=int, default=100, help="jobs for submitit (default: %(default)s)")
    sample = options.parse_args().sample
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder, cluster() as lab:
        os.environ["SWEEP_SLURM_PATIENCE"] = "pace=0 cache=0"
        drain(lab)
        jobs = ours(Store(Path(folder) / "store"), Path(folder))
        lab.reset()
        submitit_alone(jobs[:sample], Path(folder) / "submitit", lab)
        lab.reset()
        resumed(Store(Path(folder) / "resumed"), Path(folder), lab)


@contextmanager
def cluster() -> Iterator[Lab]:
    """A cluster for as long as the block lasts, found by Slurm's programs."""
    lab = Lab(Path(tempfile.gettempdir()) / f"sw-bench-{os.getpid()}", Options())
    try:
        lab.up()
        os.environ.update(lab.env)
        yield lab
    finally:
        lab.down()


def ours(store: Store, folder: Path) -> list[Job]:
    """First submission, the next one, status."""
    jobs = plan_paper_graph(store)
    first = measured("submit", "paper", "--ignore-data", "--json", "--store", str(store.root), folder=folder)
    assert first.report["sent"] == len(jobs), first.report
    files = len(files_below(store.root))
    print(
        f"sweep submit, {len(jobs):,} jobs: {first.report['calls']} sbatch calls, {files} files, {costs(first, jobs)}"
    )
    again = measured("submit", "paper", "--json", "--store", str(store.root), folder=folder)
    assert again.report["sent"] == 0
    print(f"sweep submit once more, nothing to send: {costs(again, jobs)}")
    ask = ("status", "paper", "--fresh", "--json", "--store", str(store.root))
    status = min((measured(*ask, folder=folder) for _ in range(REPEAT)), key=lambda each: each.own)
    assert status.report["states"]["queued"] == len(jobs)
    print(f"sweep status --fresh, all queued: {costs(status, jobs)}")
    return jobs


def resumed(store: Store, folder: Path, lab: Lab) -> None:
    """All cells are done (simulated) but a few, whose pre-training diverges on the cluster; then `sweep resume`."""
    plan_paper_graph(store)
    path = store.locate_sweep("paper").manifest
    manifest = read_manifest(path)
    chosen = manifest.cells[:: len(manifest.cells) // FAILED_CELLS][:FAILED_CELLS]
    diverging = {cell.pretrain for cell in chosen}
    finish_all_but({cell.name for cell in chosen}, store, manifest)
    failing = {"steps": 1, "fail": "diverged"}
    jobs = [replace(job, config=failing) if job.key in diverging else job for job in manifest.jobs]
    write_manifest(path, replace(manifest, jobs=tuple(jobs)))
    os.environ["SWEEP_STAGE_PROGRAM"] = " ".join(COUNTING_STAGE)
    words = ("paper", "--json", "--store", str(store.root))
    measured("submit", *words, folder=folder)
    deadline = time.monotonic() + SETTLE_SECONDS
    while measured("tick", *words, "--no-results", folder=folder).report["states"]["failed"] < FAILED_CELLS:
        assert time.monotonic() < deadline, "the cells did not fail in time"
    drain(lab)
    done = measured("resume", *words, folder=folder)
    what = f"{done.report['sent']} jobs in {done.report['calls']} sbatch calls"
    print(f"sweep resume of {FAILED_CELLS} failed cells: {what}, own CPU {done.own:.2f} s, wall {done.wall:.1f} s")
    resume(lab)


def finish_all_but(cells: set[str], store: Store, manifest: Manifest) -> None:
    """Results for all jobs that the named cells do not have for themselves."""
    records = [json.loads(line) for line in store.locate_sweep("paper").manifest.read_text().splitlines()]
    jobs = {record["key"]: record for record in records if record["record"] == "job"}
    written = Written(store, "paper", cells=[each for each in records if each["record"] == "cell"], jobs=jobs)
    finish(written, [job.key for job in manifest.jobs if not job.cells or not cells.issuperset(job.cells)])


def submitit_alone(jobs: list[Job], folder: Path, lab: Lab) -> None:
    """The same jobs by submitit, one by one, and as one array."""
    if importlib.util.find_spec("submitit") is None:
        print("submitit is not installed here")
        return
    drain(lab)
    executor = importlib.import_module("submitit").AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(timeout_min=30, mem_gb=0.25, cpus_per_task=1)
    ids: dict[str, str] = {}

    def one_by_one() -> None:
        for job in jobs:
            waits_for = ":".join(ids[parent] for parent in job.parents)
            dependency = {"dependency": f"afterok:{waits_for}"} if waits_for else {}
            executor.update_parameters(slurm_additional_parameters=dependency)
            ids[job.key] = executor.submit(time.sleep, 0).job_id

    report_submitit(f"submitit, submit of {len(jobs)} jobs", len(jobs), len(jobs), folder, one_by_one)
    executor.update_parameters(slurm_additional_parameters={})
    report_submitit(
        f"submitit, map_array of {len(jobs)} jobs that wait for nobody",
        len(jobs),
        1,
        folder,
        lambda: executor.map_array(time.sleep, [0] * len(jobs)),
    )


def report_submitit(title: str, jobs: int, calls: int, folder: Path, work: Callable[[], object]) -> None:
    """CPU of this process alone, from after submitit's import."""
    before, own, began = len(files_below(folder)), own_cpu(), time.monotonic()
    work()
    own, wall = own_cpu() - own, time.monotonic() - began
    files = len(files_below(folder)) - before
    print(
        f"{title}: {calls} sbatch calls, {files} files, own CPU {1000 * own / jobs:.2f} ms a job, "
        f"wall {wall:.1f} s, {1000 * wall / jobs:.0f} ms a job"
    )


def own_cpu() -> float:
    """Seconds of this process so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def costs(measured: Measured, jobs: list[Job]) -> str:
    """In words."""
    return f"own CPU {measured.own:.2f} s, {1000 * measured.own / len(jobs):.2f} ms a job, wall {measured.wall:.1f} s"


def measured(*words: str, folder: Path) -> Measured:
    """Runs one command."""
    note = folder / "own-cpu"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        cwd=ROOT,
        env=os.environ | {"OWN_CPU": str(note)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.monotonic() - began
    assert done.stdout, done.stderr
    return Measured(wall, float(note.read_text()), json.loads(done.stdout))


if __name__ == "__main__":
    main()
