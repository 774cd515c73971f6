"""What a job cost: hours of GPUs and CPU cores, and A100-hours by the GPU type's factor."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.accounting import Usage, used, wasted
from jobs.job import Job
from jobs.outcomes import Outcome
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


@dataclass(frozen=True, slots=True)
class Costs:
    """One job's attempts together. `source`: `attempts` (their own records) or the cluster's accounting."""

    used: Cost = Cost()
    wasted: Cost = Cost()
    source: str = "attempts"

    @property
    def total(self) -> Cost:
        return self.used + self.wasted


def costs_of(job: Job, outcomes: Sequence[Outcome]) -> Costs:
    """From the attempts' own records. An attempt that still runs counts when it has ended."""
    kept, lost = Cost(), Cost()
    for outcome in outcomes:
        gpu_type = outcome.start.gpu_type or job.resources.gpu_type
        kept += priced(used(outcome), gpu_type)
        lost += priced(wasted(outcome), gpu_type)
    return Costs(kept, lost)


def priced(usage: Usage, gpu_type: str) -> Cost:
    """With A100-hours."""
    kind = load_catalog().gpus.get(gpu_type)
    factor = kind.factor if kind else None
    a100_hours = 0.0 if usage.gpu_hours == 0 else None if factor is None else usage.gpu_hours * factor
    return Cost(usage.gpu_hours, usage.cpu_hours, a100_hours)
