"""What hours amount to: A100-hours, core-hours, money at the plan's prices, and estimated energy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

from jobs.job import Job
from jobs.reconcile.usage import Usage
from sweep.budget.prices import Prices
from sweep.catalog import load_catalog
from sweep.catalog.entries import GpuType
from sweep.catalog.gpu_parts import find_allocated_type
from sweep.catalog.power import load_power_table
from sweep.results.evidence import parse_gpu_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What work takes, in each unit at once. None: nobody knows, as a factor or a price is missing."""

    gpu_hours: float | None = 0.0
    a100_hours: float | None = 0.0
    core_hours: float | None = 0.0
    """Of all cores, those beside GPUs included."""
    money: float | None = 0.0
    """In the plan's currency."""
    kwh: float | None = 0.0
    """An estimate."""

    def __add__(self, other: "Amount") -> "Amount":
        return self.merge(other, lambda one, another: one + another)

    def merge(self, other: "Amount", function: Callable[[float, float], float]) -> "Amount":
        """The function of both, unit by unit; what is unknown of one is unknown of the result."""
        return Amount(
            **{
                unit: None if one is None or another is None else function(one, another)
                for unit in UNITS
                for one, another in ((getattr(self, unit), getattr(other, unit)),)
            }
        )

    def multiply(self, factor: float) -> "Amount":
        """So many times as much."""
        return self.merge(self, lambda one, _: one * factor)


UNITS = tuple(each.name for each in fields(Amount))
NOTHING_SPENT = Amount()


@dataclass(frozen=True, slots=True)
class Tariff:
    """Measures work. `prices`: None where the plan has none, and nothing has a price."""

    prices: Prices | None = None

    def measure_usage(self, job: Job, usage: Usage, gpu_type: str, gpu_kinds: str) -> Amount:
        """What an execution of the job took. `gpu_kinds`: what the cluster allocated, by its own names, of a job that
        asked for `gpu_type`."""
        gpu_hours, core_hours = usage.gpu_hours, usage.cpu_hours
        if not gpu_hours:
            return self._measure_cores(core_hours, job.phase)
        shares = find_type_shares(gpu_kinds, gpu_type)
        return self._measure_gpus(gpu_hours, core_hours, shares, job.phase)

    def measure_wall_hour(self, job: Job) -> Amount:
        """What an hour of the job takes."""
        resources = job.resources
        if not resources.gpus:
            return self._measure_cores(resources.cores, job.phase)
        shares = find_type_shares("", resources.gpu_type)
        return self._measure_gpus(resources.gpus, resources.cores, shares, job.phase)

    def measure_estimate(self, job: Job) -> Amount:
        """What the job is estimated to take as a whole."""
        estimate, resources = job.estimate, job.resources
        hours = find_wall_hours(job)
        if not hours:
            return Amount(a100_hours=estimate.a100_hours, core_hours=estimate.cpu_hours)
        whole = self.measure_wall_hour(job).multiply(hours)
        return whole.merge(
            Amount(
                gpu_hours=estimate.gpu_hours,
                a100_hours=estimate.a100_hours if resources.gpus else 0.0,
                core_hours=whole.core_hours,
                money=whole.money,
                kwh=whole.kwh,
            ),
            lambda _, planned: planned,
        )

    def _measure_cores(self, core_hours: float, phase: str) -> Amount:
        price = self.prices.core_hour if self.prices is not None else None
        power = load_power_table()
        watts = power.core.compute_watts(power.loads.get(phase, 1.0)) * power.overhead
        return Amount(
            core_hours=core_hours,
            money=0.0 if not core_hours else None if price is None else core_hours * price,
            kwh=core_hours * watts / 1000,
        )

    def _measure_gpus(
        self, gpu_hours: float, core_hours: float, shares: "tuple[tuple[GpuType, float], ...] | None", phase: str
    ) -> Amount:
        """`shares`: types of the GPUs, each with its part of the hours; None: nobody knows them."""
        if shares is None:
            return Amount(gpu_hours=gpu_hours, a100_hours=None, core_hours=core_hours, money=None, kwh=None)
        gpu_price = add_known([(self.find_price(each), share) for each, share in shares])
        watts = add_known([(find_watts(each, phase), share) for each, share in shares])
        return Amount(
            gpu_hours=gpu_hours,
            a100_hours=gpu_hours * sum(each.factor * share for each, share in shares),
            core_hours=core_hours,
            money=None if gpu_price is None else gpu_hours * gpu_price,
            kwh=None if watts is None else gpu_hours * watts / 1000,
        )

    def find_price(self, gpu: GpuType) -> float | None:
        """Of one such GPU for an hour; a part without a price of its own has its share of the whole one's."""
        if self.prices is None:
            return None
        return find_by_part(gpu, self.prices.gpu_hour)


def add_known(parts: "list[tuple[float | None, float]]") -> float | None:
    """The sum of figure times share; None where one of them is unknown."""
    total = 0.0
    for figure, share in parts:
        if figure is None:
            return None
        total += figure * share
    return total


def find_by_part(gpu: GpuType, figures: Mapping[str, float]) -> float | None:
    """The figure of a GPU type; of a part without one its share of the whole type's."""
    if gpu.name in figures:
        return figures[gpu.name]
    whole = load_catalog().gpus.get(gpu.part_of) if gpu.part_of else None
    if whole is None or whole.name not in figures or not whole.factor:
        return None
    return figures[whole.name] * gpu.factor / whole.factor


def find_watts(gpu: GpuType, phase: str) -> float | None:
    """Of one such GPU with its share of the node at the load of the phase, and with the site's overhead."""
    power = load_power_table()
    load = power.loads.get(phase, 1.0)
    found = find_by_part(gpu, {name: draw.compute_watts(load) for name, draw in power.gpus.items()})
    return None if found is None else found * power.overhead


def find_wall_hours(job: Job) -> float:
    """The estimate of the job in hours of wall-clock time; 0: there is none."""
    if job.resources.gpus:
        return job.estimate.gpu_hours / job.resources.gpus
    return job.estimate.cpu_hours / job.resources.cores if job.resources.cores else 0.0


@lru_cache(maxsize=10_000)
def find_type_shares(gpu_kinds: str, gpu_type: str) -> tuple[tuple[GpuType, float], ...] | None:
    """Types behind the cluster's names `a100=2,v100=1`, each with how many of it one GPU-hour counts; None: one of them
    is unknown. Without names it is the type that the job asked for."""
    gpus = load_catalog().gpus
    counts = parse_gpu_counts(gpu_kinds)
    if counts is None:
        return None
    total = sum(count for _, count in counts)
    found = []
    for name, count in counts if total else [("", 1)]:
        known = find_allocated_type(gpus, name, gpu_type)
        if known is None:
            return None
        found.append((known[0], known[1] * count / (total or 1)))
    return tuple(found)
