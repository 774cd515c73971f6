"""A tiny real job that checks the store from a node; it is waited for, and nothing of it is left behind."""

import json
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.errors import describe_storage_error
from jobs.job import Resources
from jobs.slurm.client import SlurmClient
from jobs.slurm.doctor import node_probe
from jobs.slurm.sbatch_errors import SubmitRefusal, UnknownSubmit
from jobs.slurm.sbatch_options import OWN_FIELDS, build_sbatch_options
from jobs.store.checks import (
    LARGE_SKEW_SECONDS,
    SMALL_SKEW_SECONDS,
    Check,
    measure_clock_skew,
    report_note,
    report_ok,
    report_problem,
)

NODE = "node"
POLL_SECONDS = 1.0
VISIBLE_SECONDS = 60.0
"""How long a file of another machine may take to show: NFS caches the names of a folder for up to a minute."""
DISTRIBUTIONS = ("sweep-vlm", "torch", "numpy", "safetensors", "tokenizers", "lm-eval")
"""Whose versions must be the same there, where they are installed here."""


@dataclass(slots=True)
class NodeTest:
    """One such job. `resources`: those of a planned job, whose partition, account, QOS and set-up it takes."""

    client: SlurmClient
    store: Path
    resources: Resources = field(default_factory=Resources)
    wait_seconds: float = 120.0
    """For its start and end together."""
    clock: Clock = SYSTEM_CLOCK
    memory_tracked: bool = True
    """Whether the cluster can be asked for memory."""

    def run(self) -> list[Check]:
        """What came of it. The job is out of the queue and its folder gone when this returns."""
        try:
            self.store.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".doctor-node-", dir=self.store.resolve()))
        except OSError as error:
            return [
                report_problem(NODE, f"not tried: {describe_storage_error(error)}", "choose another store with --store")
            ]
        name = f"sweep-doctor-{secrets.token_hex(6)}"
        try:
            found = self._run_in(folder, name)
        finally:
            ended = self.client.run("scancel", f"--name={name}")  # by name: also where sbatch's answer was lost
            shutil.rmtree(folder, ignore_errors=True)
        if ended.problem:
            found.append(
                report_note(NODE, f"the test job may still be there: {ended.problem}", f"scancel --name={name}")
            )
        return found

    def _run_in(self, folder: Path, name: str) -> list[Check]:
        mark = secrets.token_hex(16)
        (folder / "mark").write_text(mark)
        (folder / "probe.py").write_text(Path(node_probe.__file__).read_text())
        asked = build_node_resources(self.resources)
        arguments = build_sbatch_arguments(asked, folder, name, memory_tracked=self.memory_tracked)
        answer = self.client.submit(arguments, render_script(asked, folder))
        if isinstance(answer, SubmitRefusal):
            return [report_problem(NODE, f"Slurm refuses a test job: {answer.reason}", "put right what it names")]
        if isinstance(answer, UnknownSubmit):
            return [report_note(NODE, f"no test job: {answer.reason}", "try again")]
        found = self._wait(folder, answer.id)
        return (
            [found]
            if isinstance(found, Check)
            else check_report(found, mark, here=measure_clock_skew(folder, self.clock))
        )

    def _wait(self, folder: Path, job_id: str) -> Mapping[str, Any] | Check:
        """The job's report, or why there is none."""
        deadline = self.clock.monotonic() + self.wait_seconds
        ended_at, state = None, ""
        while True:
            report = read_report(folder)
            if report is not None:
                return report
            now = self.clock.monotonic()
            state = self._state(job_id) if ended_at is None else ""
            if not state and ended_at is None:
                ended_at = now
            if ended_at is not None and now > min(deadline, ended_at + VISIBLE_SECONDS):
                return explain_missing_report(folder, job_id)
            if now > deadline:
                text = f"the test job still waits after {self.wait_seconds:.0f} s ({state}), and was taken out"
                return report_note(NODE, text, "try again when the cluster is less busy, or with a longer --wait")
            self.clock.sleep(POLL_SECONDS)

    def _state(self, job_id: str) -> str:
        """`PENDING, Resources`; empty once Slurm no longer has it in the queue."""
        asked = self.client.run("squeue", "--noheader", f"--jobs={job_id}", "--format=%i %T, %r")
        if asked.problem and "Invalid job id" not in asked.problem:
            return f"unknown: {asked.problem}"
        # asked about a chosen cluster, squeue names it in a line of its own, job or no job
        states = (line.partition(" ") for line in asked.text.splitlines())
        return next((state.strip() for shown, _, state in states if shown.strip() == job_id), "")


def build_node_resources(planned: Resources) -> Resources:
    """One core for a minute, where the planned job would run."""
    options = {name: value for name, value in planned.options.items() if name in OWN_FIELDS}
    return replace(planned, nodes=1, gpus_per_node=0, cpus=1, memory_gib=1.0, time_minutes=1, options=options)


def build_sbatch_arguments(asked: Resources, folder: Path, name: str, *, memory_tracked: bool = True) -> list[str]:
    """sbatch(1)'s options of the test job."""
    log = str(folder / "log.txt").replace("%", "%%")
    return [
        *(f"--job-name={name}", f"--output={log}", f"--chdir={folder}", "--no-requeue", "--input=/dev/null"),
        *build_sbatch_options(asked, memory_tracked=memory_tracked),
    ]


def render_script(asked: Resources, folder: Path) -> str:
    """The test job's batch script, built like those of real jobs."""
    here = [name for name in DISTRIBUTIONS if read_installed_version(name)]
    words = [*asked.launcher, sys.executable, str(folder / "probe.py"), str(folder), *here]
    return "\n".join(["#!/bin/bash", *asked.setup, f"exec {shlex.join(words)}"]) + "\n"


def read_installed_version(distribution: str) -> str:
    """Its version here; empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def read_report(folder: Path) -> dict[str, Any] | None:
    """What the probe wrote; None until it is there."""
    sorted(folder.iterdir())  # listing a folder makes NFS read it again
    try:
        content = json.loads((folder / "report.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def explain_missing_report(folder: Path, job_id: str) -> Check:
    """The job ended, and there is no report."""
    advice = "check `setup`, `launcher` and the path of the store: nodes have to see it under the same name"
    try:
        lines = (folder / "log.txt").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    said = f"it said {last!r}" if last else "no log of it can be seen here: the node may not see the store"
    return report_problem(NODE, f"test job {job_id} ended without a report; {said}", advice)


def check_report(report: Mapping[str, Any], mark: str, *, here: float) -> list[Check]:
    """The probe's report as findings. `here`: by how much this machine is ahead of the file server, in seconds."""
    node = str(report.get("node") or report.get("host", ""))
    if report.get("mark") != mark:
        return [
            report_problem(NODE, f"{node} sees another folder under the store's name", "mount the same one everywhere")
        ]
    return [
        report_ok(NODE, f"{node} reads and writes the store"),
        check_python(report, node),
        check_controller(str(report.get("scontrol", "")), node),
        check_clock(float(report.get("skew", 0.0)) - here, node),
    ]


def check_python(report: Mapping[str, Any], node: str) -> Check:
    """The same Python with the same packages."""
    versions: Mapping[str, str] = report.get("versions", {})
    python = ".".join(map(str, sys.version_info[:3]))
    wanted = {"Python": python, **{name: read_installed_version(name) for name in versions}}
    there = {"Python": str(report.get("python", "")), **versions}
    other = [
        f"{name} {there[name] or 'missing'} ({wanted[name]} here)" for name in wanted if there[name] != wanted[name]
    ]
    if other:
        advice = "install the same on the nodes, or load it in `setup` or `launcher`"
        return report_problem("node's Python", f"{node} has {', '.join(other)}", advice)
    return report_ok("node's Python", f"{node} has the same Python {python} and packages")


def check_controller(complaint: str, node: str) -> Check:
    """Jobs ask the controller to requeue them when their time is up."""
    if complaint:
        advice = "jobs end at their time limit instead of requeueing themselves; `sweep tick` sends them again"
        return report_note("node's scontrol", f"does not work on {node}: {complaint.splitlines()[0]}", advice)
    return report_ok("node's scontrol", f"works on {node}")


def check_clock(skew: float, node: str) -> Check:
    """The node's clock against this machine's, both against the file server's."""
    text = f"the clocks of {node} and of this machine differ by {abs(skew):.1f} s"
    if abs(skew) > LARGE_SKEW_SECONDS:
        return report_problem("node's clock", text, "have both set by NTP: ages of files decide what is alive")
    return report_note("node's clock", text) if abs(skew) > SMALL_SKEW_SECONDS else report_ok("node's clock", text)
