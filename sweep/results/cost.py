"""What a job cost: hours of GPUs and CPU cores, and A100-hours by the GPU type's factor."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.job import Job
from jobs.reconcile.attempts import Outcome
from jobs.reconcile.executions import Ending
from jobs.reconcile.usage import Usage, executions
from sweep.catalog import load_catalog


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
