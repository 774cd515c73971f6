"""What the store shows of each job of a sweep, as the tables need it: read once, by the same code as `sweep status`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobs.job import Job
from jobs.reconcile.attempts import Outcome, finished_outcomes
from jobs.reconcile.executions import Ending
from jobs.reconcile.snapshot import Evidence, Picture
from jobs.reconcile.state import State
from jobs.reconcile.usage import Usage, executions
from jobs.store.records import read_record
from sweep.catalog import load_catalog

# What a job cost: hours of GPUs and CPU cores, and A100-hours by the GPU type's factor.


@dataclass(frozen=True, slots=True)
class Cost:
    """Hours of all GPUs and all cores together. `a100_hours` is None where a GPU type has no factor in the catalog."""

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    a100_hours: float | None = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        known = self.a100_hours is not None and other.a100_hours is not None
        return Cost(
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
            (self.a100_hours or 0.0) + (other.a100_hours or 0.0) if known else None,
        )

    def divided(self, parts: int) -> "Cost":
        """An equal part."""
        a100_hours = None if self.a100_hours is None else self.a100_hours / parts
        return Cost(self.gpu_hours / parts, self.cpu_hours / parts, a100_hours)


class Source(StrEnum):
    """Where hours come from."""

    ATTEMPTS = "attempts"
    """The attempts' own records."""
    SLURM = "slurm"
    """The cluster's accounting."""
    MIXED = "mixed"
    """The cluster's accounting, and the own records of attempts that it has no row for."""


@dataclass(frozen=True, slots=True)
class Costs:
    """One job's executions together, as far as they have ended."""

    used: Cost = Cost()
    wasted: Cost = Cost()
    source: Source | None = None
    """None: nothing has ended yet."""
    overstated_seconds: int = 0
    """Wall seconds in the cluster's rows that the attempts' own records contradict."""

    @property
    def total(self) -> Cost:
        return self.used + self.wasted


def costs_of(job: Job, outcomes: Sequence[Outcome], endings: Sequence[Ending] = ()) -> Costs:
    """From the cluster's rows, and the attempts' own records where it has none."""
    kept, lost, overstated = Cost(), Cost(), 0
    found = executions(outcomes, endings, gpus=job.resources.gpus)
    for execution in found:
        gpu_type = execution.gpu_type or job.resources.gpu_type
        kept += priced(execution.used, gpu_type)
        lost += priced(execution.wasted, gpu_type)
        overstated += execution.overstated_seconds
    return Costs(kept, lost, source_of({execution.by_cluster for execution in found}), overstated)


def source_of(by_cluster: Collection[bool]) -> Source | None:
    """One word for several executions."""
    if not by_cluster:
        return None
    if len(by_cluster) > 1:
        return Source.MIXED
    return Source.SLURM if True in by_cluster else Source.ATTEMPTS


def priced(usage: Usage, gpu_type: str) -> Cost:
    """With A100-hours."""
    kind = load_catalog().gpus.get(gpu_type)
    factor = kind.factor if kind else None
    a100_hours = 0.0 if usage.gpu_hours == 0 else None if factor is None else usage.gpu_hours * factor
    return Cost(usage.gpu_hours, usage.cpu_hours, a100_hours)


# Values from JSON that others wrote: what is not of the expected type counts as absent.


def number(value: Any) -> float | None:
    """A real number, NaN and Inf too (a diverged loss is worth showing); None for all else, also for booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isinstance(value, float) or abs(value) < 2**1000 else None


def whole(value: Any) -> int | None:
    """An integer that 64 bits hold, also one written as 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if fits else None


def pairs(value: Any) -> list[tuple[str, str]] | None:
    """A JSON object's entries as text, ordered by name; None if it is no object."""
    if not isinstance(value, dict):
        return None
    return sorted((name, str(entry)) for name, entry in value.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvidence:
    """One job."""

    job: Job
    state: State
    result: Mapping[str, Any] | None
    """A valid result.json."""
    outcomes: Sequence[Outcome]
    """Attempts, and executions that failed before one began, oldest first."""
    costs: Costs
    code_revision: str
    """Empty if it is not known."""

    @property
    def done(self) -> bool:
        return self.state is State.DONE

    @property
    def finished_at(self) -> float | None:
        """Unix seconds; of the result, else of the last attempt's end; None while it runs or before it began."""
        if self.result is not None:
            return number(self.result.get("finished_at"))
        end = self.outcomes[-1].end if self.outcomes else None
        return end.ended_at if end else None


def gather(picture: Picture) -> dict[str, JobEvidence]:
    """By key, in the order of the plan: parents before children. Costs are by the picture's endings."""
    return {
        job.key: job_evidence(
            job, picture.statuses[job.key].state, picture.evidence[job.key], picture.endings.get(job.key, ())
        )
        for job in picture.jobs
    }


def job_evidence(job: Job, state: State, found: Evidence, endings: Sequence[Ending] = ()) -> JobEvidence:
    """The rest of one job's evidence: attempts (those of a finished job too), cost, code."""
    begun = found.result is not None or bool(found.outcomes)
    outcomes = found.outcomes if found.result is None else finished_outcomes(found.run, found.result, endings)
    code = (read_record(found.run.job) or {}).get("code") if begun else None
    return JobEvidence(
        job=job,
        state=state,
        result=found.result,
        outcomes=outcomes,
        costs=costs_of(job, outcomes, endings),
        code_revision=str(code.get("revision") or "") if isinstance(code, dict) else "",
    )
