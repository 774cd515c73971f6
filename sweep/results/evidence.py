"""What store and cluster say of each job, as the tables need it: a snapshot of `sweep status`, with hours and code."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from jobs.job import Job
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_finished_attempts
from jobs.reconcile.snapshot import HoursDoubt, RunStatus, SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.reconcile.usage import ExecutionUsage, Usage, compute_execution_usage
from jobs.slurm.sbatch_options import list_requested_kinds
from jobs.store.records import read_record
from sweep.catalog import load_catalog
from sweep.catalog.gpu_parts import find_factor

NO_DOUBT = HoursDoubt()

# What a job cost.


@dataclass(frozen=True, slots=True)
class ExecutionHours:
    """Hours, summed over all GPUs and over all cores.

    `a100_hours`: GPU-hours times the factor of the GPU type; None where the catalog has no factor.
    """

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    a100_hours: float | None = 0.0

    def __add__(self, other: "ExecutionHours") -> "ExecutionHours":
        known = self.a100_hours is not None and other.a100_hours is not None
        return ExecutionHours(
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
            (self.a100_hours or 0.0) + (other.a100_hours or 0.0) if known else None,
        )

    def divide_by(self, parts: int) -> "ExecutionHours":
        """One of `parts` equal parts."""
        a100_hours = None if self.a100_hours is None else self.a100_hours / parts
        return ExecutionHours(self.gpu_hours / parts, self.cpu_hours / parts, a100_hours)


class HoursSource(StrEnum):
    """Where hours come from."""

    ATTEMPTS = "attempts"
    """The attempts' own records."""
    SLURM = "slurm"
    """The cluster's accounting."""
    MIXED = "mixed"
    """The cluster's accounting; for attempts without a row in it, their own records."""


@dataclass(frozen=True, slots=True)
class JobHours:
    """Hours of all executions of a job that have ended."""

    used: ExecutionHours = ExecutionHours()
    """For work that a later checkpoint or the result kept."""
    wasted: ExecutionHours = ExecutionHours()
    source: HoursSource | None = None
    """None: nothing has ended yet."""
    overstated_seconds: int = 0
    """Wall seconds in the cluster's rows after the ends that the attempts recorded themselves."""
    gpu_kinds: str = ""
    """What the cluster says it allocated, by its own names; empty where it does not say."""
    remark: str = ""
    """Why not all of these hours are Slurm's, of a job that ran under it; empty if they are."""

    @property
    def total(self) -> ExecutionHours:
        return self.used + self.wasted


def compute_job_hours(
    job: Job,
    outcomes: Sequence[AttemptRecord],
    endings: Sequence[AccountingRecord] = (),
    doubt: HoursDoubt = NO_DOUBT,
) -> JobHours:
    """Hours by the cluster's rows; for attempts without one, by their own records."""
    kept, lost, overstated = ExecutionHours(), ExecutionHours(), 0
    found = compute_execution_usage(outcomes, endings, gpus=job.resources.gpus)
    for execution in found:
        gpu_type = execution.gpu_type or job.resources.gpu_type
        kinds = execution.gpu_kinds or list_requested_kinds(job.resources.options)
        kept += price_usage(execution.used, gpu_type, kinds)
        lost += price_usage(execution.wasted, gpu_type, kinds)
        overstated += execution.overstated_seconds
    source = merge_sources({execution.by_cluster for execution in found})
    names = sorted({word for execution in found for word in execution.gpu_kinds.split(",") if word})
    return JobHours(kept, lost, source, overstated, ",".join(names), explain_hours(found, doubt))


def explain_hours(found: Sequence[ExecutionUsage], doubt: HoursDoubt) -> str:
    """Why not all hours of these executions are Slurm's; empty if they are, or if none ran under Slurm."""
    if doubt.unseen:
        return doubt.unseen
    if any(execution.on_cluster and not execution.by_cluster for execution in found):
        return doubt.missing or "sacct has no record of some executions"
    if any(execution.gpus_assumed for execution in found):
        return "sacct does not count their GPUs"
    return ""


def merge_sources(by_cluster: Collection[bool]) -> HoursSource | None:
    """The source of a sum; `by_cluster` has the sources of its parts, True for the cluster's accounting."""
    if not by_cluster:
        return None
    if len(by_cluster) > 1:
        return HoursSource.MIXED
    return HoursSource.SLURM if True in by_cluster else HoursSource.ATTEMPTS


def price_usage(usage: Usage, gpu_type: str, gpu_kinds: str = "") -> ExecutionHours:
    """The same hours with A100-hours; an unknown GPU type has none, unless no GPU was used.

    `gpu_kinds`: what the cluster says it allocated (`AccountingRecord.gpu_kinds`).
    """
    factor = find_mean_factor(gpu_kinds, gpu_type)
    a100_hours = 0.0 if usage.gpu_hours == 0 else None if factor is None else usage.gpu_hours * factor
    return ExecutionHours(usage.gpu_hours, usage.cpu_hours, a100_hours)


COUNT = re.compile(r"[0-9]{1,9}")


def parse_gpu_counts(gpu_kinds: str) -> list[tuple[str, int]] | None:
    """`a100=2,v100=1` as names with their numbers; None where it is of another form."""
    found = []
    for word in filter(None, gpu_kinds.split(",")):
        name, _, count = word.rpartition("=")
        if not COUNT.fullmatch(count):
            return None
        found.append((name, int(count)))
    return found


@cache
def find_mean_factor(gpu_kinds: str, gpu_type: str) -> float | None:
    """A100-hours of one GPU-hour over the kinds `a100=2,v100=1`; None where one of them is unknown."""
    gpus = load_catalog().gpus
    counts = parse_gpu_counts(gpu_kinds)
    if counts is None:
        return None
    total, weighted = 0, 0.0
    for name, count in counts:
        factor = find_factor(gpus, name, gpu_type)
        if factor is None:
            return None
        total, weighted = total + count, weighted + count * factor
    return weighted / total if total else find_factor(gpus, "", gpu_type)


# Values of JSON files that stages and engines write. A value of another type than expected counts as absent.


def parse_number(value: Any) -> float | None:
    """A number, also NaN and Inf (a diverged loss is a finding); None for all else, also for booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isinstance(value, float) or abs(value) < 2**1000 else None  # float() of larger ones raises


def parse_whole_number(value: Any) -> int | None:
    """An integer of 64 bits, also one written as 3.0; else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if fits else None


def parse_text_pairs(value: Any) -> list[tuple[str, str]] | None:
    """Entries of a JSON object as text, by name; None if it is no object."""
    if not isinstance(value, dict):
        return None
    return sorted((name, str(entry)) for name, entry in value.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvidence:
    """One job with all that the tables say of it."""

    job: Job
    state: JobState
    result: Mapping[str, Any] | None
    """Content of a valid result.json; None without one."""
    outcomes: Sequence[AttemptRecord]
    """Attempts, and executions that failed before one began, oldest first."""
    costs: JobHours
    code_revision: str
    """Empty if it is not known."""

    @property
    def done(self) -> bool:
        return self.state is JobState.DONE

    @property
    def finished_at(self) -> float | None:
        """Unix seconds at which the result was written, else at which the last attempt ended; None before that."""
        if self.result is not None:
            return parse_number(self.result.get("finished_at"))
        end = self.outcomes[-1].end if self.outcomes else None
        return end.ended_at if end else None


@dataclass(frozen=True, slots=True)
class UncountedRuns:
    """Runs whose result does not count, or that could not be read: tables show them as not done."""

    problems: tuple[str, ...]
    """One line each, with the file."""
    is_partial: bool
    """Whether a run could not be read, so that it may be done all the same."""

    def list_remarks(self) -> list[str]:
        """The first few, and how many more there are."""
        more = len(self.problems) - MOST_PROBLEMS
        lines = [f"does not count: {problem}" for problem in self.problems[:MOST_PROBLEMS]]
        return [*lines, *([f"{more:,} more results do not count"] if more > 0 else [])]


MOST_PROBLEMS = 10


def find_uncounted_runs(snapshot: SweepSnapshot) -> UncountedRuns:
    """Of all jobs of the plan."""
    runs = snapshot.runs.values()
    problems = tuple(run.problem for run in runs if run.problem)
    return UncountedRuns(problems, is_partial=not all(run.readable for run in runs))


def load_job_evidence(snapshot: SweepSnapshot) -> dict[str, JobEvidence]:
    """Evidence by key, in the order of the plan (parents before children)."""
    return {
        job.key: build_job_evidence(
            job,
            snapshot.statuses[job.key].state,
            snapshot.runs[job.key],
            snapshot.accounting_records.get(job.key, ()),
            snapshot.explain_hours(job.key),
        )
        for job in snapshot.jobs
    }


def build_job_evidence(
    job: Job,
    state: JobState,
    found: RunStatus,
    endings: Sequence[AccountingRecord] = (),
    doubt: HoursDoubt = NO_DOUBT,
) -> JobEvidence:
    """Reads what a snapshot leaves out: the attempts of a finished job, and the code that ran."""
    result = found.read_result()
    begun = found.done or bool(found.outcomes)
    outcomes = read_finished_attempts(found.run, result or {}, endings) if found.done else found.outcomes
    code = (read_record(found.run.job) or {}).get("code") if begun else None
    return JobEvidence(
        job=job,
        state=state,
        result=result,
        outcomes=outcomes,
        costs=compute_job_hours(job, outcomes, endings, doubt),
        code_revision=str(code.get("revision") or "") if isinstance(code, dict) else "",
    )
