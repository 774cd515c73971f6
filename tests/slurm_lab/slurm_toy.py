"""Small sweeps on the test cluster, driven by the commands that people type, and what is asked of cluster and store."""

import contextlib
import hashlib
import io
import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Job, Resources
from jobs.reconcile.state import JobState
from jobs.slurm.batch_ledger import BatchHistory, read_batch_history
from jobs.store.paths import Store
from sweep.cli import main
from sweep.plan.manifest import read_manifest, write_manifest
from sweep.results.evidence import load_job_evidence
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab, LabError
from tests.slurm_lab.fakes import FOLDER
from tests.slurm_lab.processes import wait_for

PATIENCE = "call=20 submit=20 doubt=8 absent=4 late=120 look_again=1 cache=0 pace=0"
"""Long enough for this cluster on a busy machine (jobs/slurm/timeouts.py)."""
NOOP_STAGE = (sys.executable, "-S", str(FOLDER / "noop_stage.py"))


@dataclass(frozen=True, slots=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sweep(*words: str) -> Told:
    """One command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    return Told(code, out.getvalue(), err.getvalue())


class ToySweep:
    """One sweep of toy jobs, planned for the test cluster; nothing is sent yet.

    `stage`: words of the program that runs in the stages' place.
    """

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        jobs: Sequence[Job],
        monkeypatch: pytest.MonkeyPatch,
        *,
        stage: Sequence[str] = toy.COUNTING_STAGE,
    ) -> None:
        self.lab = lab
        self.folder = folder
        self.store = Store(folder / "store")
        self.jobs = list(jobs)
        self.by_key = {job.key: job for job in jobs}
        monkeypatch.setenv("SWEEP_STAGE_PROGRAM", " ".join(stage))
        monkeypatch.setenv("SWEEP_SLURM_PATIENCE", PATIENCE)
        monkeypatch.setenv("SWEEP_TAKEOVER_SECONDS", "3")
        toy.plan(self.store, self.jobs, backend="slurm")

    def sweep(self, command: str, *options: str) -> Told:
        """One command on this sweep, in this process."""
        return sweep(command, toy.SWEEP, *options, "--store", str(self.store.root))

    def start(self, command: str, *options: str) -> "subprocess.Popen[str]":
        """One command in a process of its own, its output to be read by the caller."""
        words = [sys.executable, "-m", "sweep", command, toy.SWEEP, *options, "--store", str(self.store.root)]
        return subprocess.Popen(words, cwd=toy.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sent(self, command: str = "submit", *options: str) -> tuple[int, int]:
        """A submission: how many jobs went out, in how many sbatch calls."""
        told = self.sweep(command, "--json", *options, *(["--no-results"] if command == "tick" else []))
        assert told.code == 0, told.err
        return told.json["sent"], told.json["calls"]

    def tick(self) -> Mapping[str, Any]:
        """One round without the tables; what it reports."""
        report: Mapping[str, Any] = self.sweep("tick", "--json", "--no-results").json
        return report

    def ticks_until(self, ready: Callable[[Mapping[str, Any]], bool], seconds: float = 60) -> list[Mapping[str, Any]]:
        """Rounds until one reports what is asked for; all of their reports."""
        reports: list[Mapping[str, Any]] = []

        def done() -> bool:
            reports.append(self.tick())
            return ready(reports[-1])

        try:
            wait_for("ticks to come to an end", done, seconds=seconds, every=0.3)
        except LabError as error:
            sent = sum(report["sent"] for report in reports)
            told = f"{len(reports)} ticks sent {sent} jobs, the last one told {reports[-1]}; queue: {self.queue()}"
            raise LabError(f"{error}; {told}") from error
        return reports

    def finish(self, seconds: float = 60) -> list[Mapping[str, Any]]:
        """Rounds until every job is done."""
        return self.ticks_until(lambda report: bool(report["complete"]), seconds)

    def ends(self, key: str) -> list[tuple[str, str]]:
        """Node and failure of each attempt that began, oldest first; no failure where it finished the job."""
        found = load_job_evidence(open_sweep(self.store.root, toy.SWEEP).load_snapshot())[key]
        return [(each.node, str(each.failure or "")) for each in found.outcomes if each.began]

    def states(self) -> dict[str, JobState]:
        """Every job's state, Slurm asked anew."""
        picture = open_sweep(self.store.root, toy.SWEEP).load_snapshot()
        return {key: status.state for key, status in picture.statuses.items()}

    def notes(self) -> BatchHistory:
        """What the ledgers say."""
        return read_batch_history(self.store.locate_sweep(toy.SWEEP).ledger)

    def queue(self) -> dict[str, tuple[str, str]]:
        """Task ids in the queue, with state and reason."""
        lines = self.lab.output("squeue", "-h", "-r", "-o", "%i %T %r %j").splitlines()
        rows = [line.split() for line in lines if line.endswith(f"-{toy.SWEEP}")]
        return {row[0]: (row[1], row[2]) for row in rows}

    def wait_until_queue_is_empty(self, seconds: float = 30) -> None:
        """A result is there before its job has left the queue, by a second or more on a busy machine."""
        wait_for("the queue to be empty", lambda: self.queue() == {}, seconds=seconds)

    def ids(self) -> dict[str, list[str]]:
        """Task ids by key, oldest batch first, as the ledgers have them."""
        found: dict[str, list[str]] = {job.key: [] for job in self.jobs}
        for batch in sorted(self.notes().batches.values(), key=lambda batch: batch.intended_at):
            for index, key in batch.tasks.items():
                found[key] += [f"{batch.id}_{index}"] if batch.id else []
        return found

    def wait_state(self, key: str, state: JobState, seconds: float = 30) -> None:
        wait_for(f"{key} to be {state}", lambda: self.states()[key] is state, seconds=seconds, every=0.2)

    def executions(self, key: str) -> Counter[str]:
        """How often the stage began, stepped, completed..."""
        return Counter(line["event"] for line in toy.executions(self.store, self.by_key[key]))

    def open_gate(self, key: str) -> None:
        """Lets a job go on that waits at its `gate_at`, or will."""
        toy.open_gate(self.store, self.by_key[key])

    def began(self, key: str) -> bool:
        return self.executions(key)["begin"] > 0

    def assert_as_undisturbed(self) -> None:
        """Every job is done with the value that it must have; none ran twice at once or to completion."""
        toy.assert_nothing_lost_or_doubled(self.store, self.jobs, expected_values(self.jobs))


def expected_values(jobs: Sequence[Job]) -> dict[str, str]:
    """What counting stages arrive at if no step is lost or done twice (tests/jobs/counting_stage.py)."""
    values: dict[str, str] = {}
    for job in jobs:
        value = digest("".join(values[parent] for parent in job.parents))
        for step in range(1, int(str(job.config["steps"])) + 1):
            value = digest(f"{job.key}:{value}:{step}")
        values[job.key] = value
    return values


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def drain(lab: Lab) -> None:
    """No node takes a job any more, until `resume` or the lab's reset."""
    _set_nodes(lab, "drain")


def resume(lab: Lab) -> None:
    """All nodes take jobs again."""
    _set_nodes(lab, "resume")


def _set_nodes(lab: Lab, state: str) -> None:
    names = ",".join(lab.options.node_names)
    lab.output("scontrol", "update", f"nodename={names}", f"state={state}", "reason=test")


def dependencies(lab: Lab) -> list[str]:
    """The kinds of dependencies of all queued jobs, such as aftercorr."""
    lines = lab.output("squeue", "-h", "-r", "-o", "%E").splitlines()
    return [line.partition(":")[0] for line in lines if line not in {"", "(null)"}]


def plan_paper_graph(store: Store) -> list[Job]:
    """Plans the paper's sweep, with requests that the test cluster can hold: a CPU and little memory a job."""
    planned = sweep("plan", str(toy.ROOT / "manifests" / "paper.yaml"), "--store", str(store.root))
    assert planned.code == 0, planned.err
    path = store.locate_sweep("paper").manifest
    manifest = read_manifest(path)
    small = Resources(cpus=1, memory_gib=0.25, time_minutes=30)
    jobs = tuple(replace(job, resources=small) for job in manifest.jobs)
    write_manifest(path, replace(manifest, backend="slurm", jobs=jobs))
    return list(jobs)


def ecc_fault_on(node: str, folder: Path) -> tuple[str, ...]:
    """A counting stage that dies on one node as with a broken GPU, and works on all others."""
    program = folder / "stage-with-a-bad-node"
    stage = shlex.join(toy.COUNTING_STAGE)
    fault = "NVRM: Xid (PCI:0000:07:00): 48, uncorrectable ECC error"
    program.write_text(f"#!/bin/sh\n[ $SLURMD_NODENAME = {node} ] && echo '{fault}' && exit 1\nexec {stage} \"$@\"\n")
    program.chmod(0o755)
    return (str(program),)


def sbatch(lab: Lab, *options: str, script: str = "true") -> str:
    """The id of a job that somebody else submits."""
    return lab.output("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")


def files_below(folder: Path) -> dict[str, int]:
    """Every file with the nanoseconds of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
