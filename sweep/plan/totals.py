"""What a plan costs: sums over its jobs by model and phase, what sharing saves, what is done, how long it must take."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from jobs.job import Job
from sweep.plan.manifest import Manifest, map_jobs_to_models


@dataclass(slots=True)
class Cost:
    """A sum of estimates (`jobs.job.Estimate`)."""

    jobs: int = 0
    tokens: int = 0
    images: int = 0
    encoded_images: int = 0
    requests: int = 0
    flops: float = 0.0
    encoder_flops: float = 0.0
    gpu_hours: float = 0.0
    a100_hours: float = 0.0
    """The vision encoder included."""
    encoder_a100_hours: float = 0.0
    cpu_hours: float = 0.0
    startup_hours: float = 0.0
    startup_a100_hours: float = 0.0
    checkpoint_bytes: int = 0
    feature_bytes: int = 0

    def add_job(self, job: Job, times: int = 1) -> None:
        estimate = job.estimate
        self.jobs += times
        self.tokens += times * estimate.tokens
        self.images += times * estimate.images
        self.encoded_images += times * estimate.encoded_images
        self.requests += times * estimate.requests
        self.flops += times * estimate.flops
        self.encoder_flops += times * estimate.encoder_flops
        self.gpu_hours += times * estimate.gpu_hours
        self.a100_hours += times * estimate.a100_hours
        self.encoder_a100_hours += times * estimate.encoder_a100_hours
        self.cpu_hours += times * estimate.cpu_hours
        self.startup_hours += times * estimate.startup_hours
        self.startup_a100_hours += times * estimate.startup_a100_hours
        self.checkpoint_bytes += times * estimate.checkpoint_bytes
        self.feature_bytes += times * estimate.feature_bytes

    def convert_to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class PhaseCost(Cost):
    """The jobs of one phase of one model."""

    least_hours: float = float("inf")
    """Without encoder and start-up: the cheapest job's A100-hours, or core-hours where it uses no GPU."""
    most_hours: float = 0.0

    def add_job(self, job: Job, times: int = 1) -> None:
        Cost.add_job(self, job, times)
        estimate = job.estimate
        hours = estimate.a100_hours - estimate.encoder_a100_hours - estimate.startup_a100_hours
        hours += 0.0 if estimate.gpu_hours else estimate.cpu_hours - estimate.startup_hours
        self.least_hours = min(self.least_hours, hours)
        self.most_hours = max(self.most_hours, hours)


@dataclass(slots=True)
class WallClock:
    """Bounds from below, start-up included: no schedule is faster."""

    critical_path: tuple[str, ...] = ()
    """Keys of the chain of unfinished jobs that takes longest."""
    critical_path_hours: float = 0.0
    gpus: int | None = None
    cpus: int | None = None
    at_least_hours: float = 0.0
    """The critical path, or the work that is left on so many GPUs and cores, whichever is longer."""
    too_wide: int = 0
    """Jobs that ask for more than there is at once."""

    def convert_to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"critical_path": list(self.critical_path)}


@dataclass(slots=True)
class PlanCosts:
    """Everything that the report of a plan shows."""

    by_model: dict[str, dict[str, PhaseCost]] = field(default_factory=dict)
    total: Cost = field(default_factory=Cost)
    done: Cost = field(default_factory=Cost)
    unshared: Cost = field(default_factory=Cost)
    """What it would be if every cell trained all that it descends from by itself."""
    gpu_hours_by_type: dict[str, float] = field(default_factory=dict)
    time: WallClock = field(default_factory=WallClock)


def compute_plan_costs(
    manifest: Manifest,
    done: frozenset[str],
    *,
    gpus: int | None = None,
    cpus: int | None = None,
) -> PlanCosts:
    """Sums over a manifest; `done` holds keys of finished jobs, `gpus` and `cpus` what may be used at once."""
    costs = PlanCosts()
    models, needed = map_jobs_to_models(manifest), count_unshared_runs(manifest)
    # equal jobs share one estimate object, so that a large grid is summed in few steps
    groups: dict[tuple[str, str, bool, int, int, int], list[Job]] = defaultdict(list)
    for job in manifest.jobs:
        key = job.key
        alike = models[key], job.phase, key in done, needed[key], id(job.estimate), id(job.resources)
        groups[alike].append(job)
    for (model, phase, is_done, times, *_), jobs in groups.items():
        job, number = jobs[0], len(jobs)
        costs.by_model.setdefault(model, {}).setdefault(phase, PhaseCost()).add_job(job, number)
        costs.total.add_job(job, number)
        costs.done.add_job(job, number * is_done)
        costs.unshared.add_job(job, number * times)
        if job.resources.gpus:
            kind = job.resources.gpu_type
            costs.gpu_hours_by_type[kind] = costs.gpu_hours_by_type.get(kind, 0.0) + number * job.estimate.gpu_hours
    costs.time = compute_wall_clock([job for job in manifest.jobs if job.key not in done], gpus=gpus, cpus=cpus)
    return costs


def count_unshared_runs(manifest: Manifest) -> dict[str, int]:
    """How often each job would run if no two cells shared anything, by key."""
    times = {job.key: len(job.cells) for job in manifest.jobs}
    for job in reversed(manifest.jobs):
        if job.stage == "pretrain":
            for parent in job.parents:
                times[parent] += times[job.key]
    return times


def compute_wall_hours(job: Job) -> float:
    """Expected duration on the resources that the job asks for, without waits: work, and start-up of each attempt."""
    resources, estimate = job.resources, job.estimate
    if resources.gpus:
        return estimate.gpu_hours / resources.gpus
    return estimate.cpu_hours / job.resources.cores


def compute_wall_clock(jobs: Sequence[Job], *, gpus: int | None, cpus: int | None) -> WallClock:
    """Bounds for `jobs`, parents before children; parents that are not among them are finished."""
    known: dict[tuple[int, int], float] = {}
    hours: dict[str, float] = {}
    gpu_work = cpu_work = 0.0
    for job in jobs:
        alike = id(job.estimate), id(job.resources)
        if alike not in known:
            known[alike] = compute_wall_hours(job)
        hours[job.key] = known[alike]
        if job.resources.gpus:
            gpu_work += known[alike] * job.resources.gpus
        else:
            cpu_work += known[alike] * job.resources.cores
    path, path_hours = find_critical_path(jobs, hours)
    on_gpus, on_cpus = gpu_work / gpus if gpus else 0.0, cpu_work / cpus if cpus else 0.0
    return WallClock(
        critical_path=path,
        critical_path_hours=path_hours,
        gpus=gpus,
        cpus=cpus,
        at_least_hours=max(path_hours, on_gpus, on_cpus),
        too_wide=sum(is_too_wide(job, gpus, cpus) for job in jobs) if gpus or cpus else 0,
    )


def is_too_wide(job: Job, gpus: int | None, cpus: int | None) -> bool:
    """Whether it asks for more than there is; a job on GPUs has its cores beside them."""
    if job.resources.gpus:
        return gpus is not None and job.resources.gpus > gpus
    return cpus is not None and job.resources.cores > cpus


def find_critical_path(jobs: Iterable[Job], hours: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """Keys of the chain of jobs that takes longest, first to last, and its hours; nothing for no jobs."""
    ends: dict[str, float] = {}
    before: dict[str, str] = {}
    for job in jobs:
        live = [parent for parent in job.parents if parent in ends]
        if live:
            before[job.key] = max(live, key=ends.__getitem__)
        ends[job.key] = hours[job.key] + (ends[before[job.key]] if live else 0.0)
    if not ends:
        return (), 0.0
    path = [max(ends, key=ends.__getitem__)]
    while path[-1] in before:
        path.append(before[path[-1]])
    return tuple(reversed(path)), ends[path[0]]
