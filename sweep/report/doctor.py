"""`sweep doctor`: the checks that it makes, and its report as text and as JSON (docs/json.md, section `doctor`)."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.counted import format_counted
from jobs.errors import ClusterChoiceError
from jobs.job import Job, Resources
from jobs.local.runner_lock import find_runner_owner
from jobs.local.slots import detect_machine_slots
from jobs.processes import read_user_name
from jobs.reconcile.unsettled import list_unsettled_remarks
from jobs.slurm.client import SlurmClient
from jobs.slurm.doctor.checks import check_client, check_plan, check_site, has_slurm
from jobs.slurm.doctor.node_test import NodeTest
from jobs.slurm.query import find_cluster, load_batch_history
from jobs.slurm.refusals import read_refusals
from jobs.slurm.script import find_path_problem
from jobs.slurm.site.chosen_cluster import read_chosen_cluster
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.limits import can_ask_memory
from jobs.slurm.site.site import query_site
from jobs.store.checks import Check, Severity, check_store, report_note, report_ok, report_problem
from jobs.store.ledger import has_batches
from jobs.store.paths import Store
from jobs.store.results import list_finished_keys
from stages.printable import render_line
from sweep.cost.estimate import BYTES_OF_TRAINING_STATE, BYTES_OF_WEIGHT
from sweep.disk.room import describe_shortage
from sweep.kept_limits import read_limits
from sweep.preflight.gate import check_gate
from sweep.report.history import format_time
from sweep.stored_sweep import StoredSweep, list_planned_sweeps, read_slurm_timeouts
from sweep.text_format import format_columns

CHECKPOINT_SIZE_FACTORS = {"trunk": 1.0, "pretrain": BYTES_OF_TRAINING_STATE / BYTES_OF_WEIGHT}
"""Bytes of a checkpoint while training, times those that are kept at the end; fine-tunes are as image-text runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRun:
    """What is checked."""

    store: Path
    planned: StoredSweep | None = None
    """None: no sweep was named; only what holds for every sweep is checked."""
    node_test: bool = False
    wait_seconds: float = 120.0

    @property
    def sweep(self) -> str | None:
        return self.planned.manifest.sweep if self.planned else None

    def iter_checks(self) -> Iterator[Check]:
        """Each finding as it is made."""
        jobs = self.list_unfinished_jobs()
        local = self.is_local()
        slurm = has_slurm() and not local
        if local:
            yield from self.iter_local_checks(jobs)
        elif slurm:
            yield from self.iter_slurm_checks(jobs)
        elif self.planned is not None and self.planned.manifest.backend == "slurm":
            yield report_problem(
                "clients", "no Slurm on this machine", "go to a login node, or submit with --backend local"
            )
        else:
            yield report_note("clients", "no Slurm on this machine; sweeps run here with --backend local")
        if slurm and (problem := find_path_problem(self.store)):
            yield report_problem("store", problem, "choose another folder with --store")
        yield from self.iter_refusal_checks({job.key for job in jobs})
        yield from self.iter_input_checks({job.key for job in jobs})
        needed = sum(job.estimate.checkpoint_bytes for job in jobs)
        yield from check_store(self.store, needed_bytes=needed, shared=slurm)
        yield from self.iter_room_checks(jobs)
        if self.node_test and slurm:
            yield from self.iter_node_checks(jobs)

    def is_local(self) -> bool:
        """Whether the named sweep runs on this machine, by its file or by what was chosen since."""
        if self.planned is None or has_batches(self.planned.paths.ledger):
            return False
        return (read_limits(self.planned.paths.limits).backend or self.planned.manifest.backend) == "local"

    def iter_local_checks(self, jobs: Sequence[Job]) -> Iterator[Check]:
        """What this machine has, and the jobs that it has too little for."""
        slots = detect_machine_slots(gpus=None if any(job.resources.gpus for job in jobs) else 0)
        devices = [
            format_counted(slots.cpus, "core"),
            *([format_counted(len(slots.devices), "GPU")] if slots.devices else []),
        ]
        yield report_ok("machine", f"the sweep runs here, on {' and '.join(devices)}")
        found = Counter(reason for job in jobs if (reason := slots.find_infeasible_reason(job.resources)))
        for reason, number in found.items():
            yield report_problem(
                "jobs",
                f"{format_counted(number, 'job')} can never run here: {reason}",
                "lower `resources` in the sweep file, or run them on another machine",
            )
        if (owner := find_runner_owner(Store(self.store))) is not None:
            yield report_note("runner", f"at work: {owner}", f"`sweep status {owner.sweep}` shows what it does")

    def list_unfinished_jobs(self) -> Sequence[Job]:
        """The plan's jobs that have no result yet."""
        if self.planned is None:
            return ()
        done = list_finished_keys(self.planned.store, self.planned.manifest.jobs)
        return [job for job in self.planned.manifest.jobs if job.key not in done]

    # Why: docs/decisions.md, D172
    def iter_input_checks(self, unfinished: Collection[str]) -> Iterator[Check]:
        """What stands against sending the named sweep's unfinished jobs, by what they will read. Nothing is kept."""
        if self.planned is None:
            return
        kept = read_limits(self.planned.paths.limits)
        report = check_gate(self.planned, unfinished, kept.ignored_inputs, writes=False)
        for remark in report.remarks:
            yield report_note("inputs", remark)
        for change in report.changes:
            yield report_problem("inputs", str(change), "put the former data back, or plan it again")
        found = [
            line for problem, line in zip(report.problems, report.lines, strict=True) if problem.setting != "store"
        ]
        for line in found:  # the room in the store is a check of its own
            yield report_problem("inputs", line, f"or accept it: `sweep submit {self.sweep} --ignore-data`")
        if unfinished and not (report.remarks or report.changes or found):
            yield report_ok("inputs", "what the jobs read is there and fits, by the first samples of each data set")

    def iter_room_checks(self, unfinished: Sequence[Job]) -> Iterator[Check]:
        """When the disk will be full, where it will, and what would be freed."""
        if self.planned is not None and (line := describe_shortage(self.planned, unfinished)):
            yield report_note("space", line, "what stays is chosen by `keep` of the sweep file")

    def iter_refusal_checks(self, unfinished: Collection[str]) -> Iterator[Check]:
        """Slurm's last answers for jobs of the named sweep, else of all sweeps of the store, by reason."""
        store = Store(self.store)
        names = [self.sweep] if self.sweep else list_planned_sweeps(store)
        for name in names:
            known = read_refusals(store, name)
            found = Counter(refusal for key, refusal in known.items() if self.planned is None or key in unfinished)
            for refusal, number in found.most_common():
                jobs = f"sweep {name}: {format_counted(number, 'job')} not sent"
                text = f"{jobs}, as of {format_time(refusal.when)}: {refusal.text}"
                yield report_note("refused", text, refusal.advice or "`sweep tick` asks again")

    def iter_slurm_checks(self, jobs: Sequence[Job]) -> Iterator[Check]:
        found = list(check_client(SlurmClient(), dict(os.environ)))
        yield from found
        if any(check.severity is Severity.PROBLEM for check in found):
            return
        try:
            client = self.open_client()
        except ClusterChoiceError as error:
            yield report_problem("cluster", str(error), "a sweep is on one cluster")
            return
        site = query_site(client, read_user_name())
        yield from check_site(site)
        if self.planned is not None:
            for line in list_unsettled_remarks(self.planned.load_snapshot()):
                yield report_note("not known", line)
            largest = max(map(estimate_checkpoint_bytes, jobs), default=0)
            checker = FeasibilityChecker(client=client, site=site)
            yield from check_plan(site, jobs, checker, largest_save_bytes=largest)

    # Why: docs/decisions.md, D113
    def open_client(self) -> SlurmClient:
        """Of the cluster that a round of the named sweep would ask. Raises ClusterChoiceError."""
        if self.planned is None:
            return SlurmClient(cluster=read_chosen_cluster(os.environ))
        keys = {job.key for job in self.planned.manifest.jobs}
        history = load_batch_history(self.planned.store, self.planned.manifest.sweep, keys)
        timeouts = read_slurm_timeouts()
        return SlurmClient(timeouts, cluster=find_cluster(history.batches.values(), timeouts))

    def iter_node_checks(self, jobs: Sequence[Job]) -> Iterator[Check]:
        resources = jobs[0].resources if jobs else Resources()
        try:
            client = self.open_client()
        except ClusterChoiceError:
            return  # told already
        site = query_site(client, read_user_name())
        default = [each.knows_memory for each in site.partitions or () if each.is_default]
        tracked = can_ask_memory(jobs[0], site) if jobs else all(default)
        yield from NodeTest(client, self.store, resources, self.wait_seconds, memory_tracked=tracked).run()


def estimate_checkpoint_bytes(job: Job) -> int:
    """One checkpoint of the job while it trains."""
    return round(
        job.estimate.checkpoint_bytes * CHECKPOINT_SIZE_FACTORS.get(job.phase, CHECKPOINT_SIZE_FACTORS["pretrain"])
    )


def build_doctor_json(examination: DoctorRun, checks: Sequence[Check]) -> dict[str, Any]:
    """The report as JSON types."""
    return {
        "format": 1,
        "sweep": examination.sweep,
        "store": str(examination.store),
        "problems": count_problems(checks),
        "checks": [
            {"check": each.name, "verdict": each.severity.value, "text": each.text, "advice": each.advice}
            for each in checks
        ],
    }


def count_problems(checks: Sequence[Check]) -> int:
    """How many findings would stop a sweep."""
    return sum(check.severity is Severity.PROBLEM for check in checks)


def format_doctor_report(checks: Sequence[Check]) -> str:
    """A line each: severity, what was checked, what was found, what to do."""
    rows = [[each.severity.value, each.name, format_check(each)] for each in checks]
    return "\n".join(format_columns(rows, left=3))


def format_check(check: Check) -> str:
    """Finding and advice; a text of Slurm's or of a node's may hold anything, and stays one printable line."""
    text = f"{check.text}; {check.advice}" if check.advice else check.text
    return render_line(text)
