"""What a sweep's campaign meets on this machine or on this cluster, and what a question "what if" changes of it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from jobs.errors import NoSchedulerError
from jobs.job import Job
from sweep.forecast.campaign import Spread, SubmitLimit
from sweep.forecast.reading import SiteConditions
from sweep.kept_limits import KeptLimits
from sweep.report.time_left import Capacity, Progress, find_local_capacity, measure_running_capacity
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_counted

TICK_MINUTES = 10.0
"""As docs/slurm.md has it in crontab."""
OWN_LIMIT = "--max-queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastQuestion:
    """What is to be assumed in place of what is found; None: as it is found."""

    gpus: int | None = None
    cores: int | None = None
    max_queued: int | None = None
    wait_minutes: float | None = None
    tick_minutes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConditions:
    """The conditions, with what they rest on, one line each."""

    conditions: SiteConditions
    basis: tuple[str, ...]


def find_conditions(
    stored: StoredSweep, progress: Progress, kept: KeptLimits, question: ForecastQuestion
) -> FoundConditions:
    """Of the sweep's back end. A cluster that does not answer is no error: its limits are then left out, and told."""
    if (kept.backend or stored.manifest.backend) == "local":
        return _find_on_this_machine(stored, progress, question)
    return _find_on_the_cluster(stored, progress, kept, question)


def _find_on_this_machine(stored: StoredSweep, progress: Progress, question: ForecastQuestion) -> FoundConditions:
    capacity = _change_capacity(find_local_capacity(stored.store, progress), question)
    return FoundConditions(conditions=SiteConditions(capacity=capacity), basis=(f"devices: {capacity.basis}",))


def _find_on_the_cluster(
    stored: StoredSweep, progress: Progress, kept: KeptLimits, question: ForecastQuestion
) -> FoundConditions:
    basis = []
    running = measure_running_capacity(progress.open, progress.running)
    capacity: Capacity | None = None
    if question.gpus is not None or question.cores is not None or running is not None:
        largest = Capacity(
            cores=max((job.resources.cores for job in progress.open), default=1),
            gpus=max((job.resources.gpus for job in progress.open), default=0),
            basis="",
        )
        capacity = _change_capacity(running or largest, question)
        basis.append(f"devices: {capacity.basis}")
    else:
        basis.append("devices: as many as there are jobs for, as none runs now; say how many you get: --gpus N")
    most = question.max_queued or kept.max_queued
    limits, names, remark = _ask_site_limits(stored, progress.open)
    basis += [remark] if remark else []
    if most is not None:
        limits = [*limits, SubmitLimit(name=OWN_LIMIT, most=most)]
    minutes = TICK_MINUTES if question.tick_minutes is None else question.tick_minutes
    basis.append(f"a tick each {minutes:g} min")
    wait = None if question.wait_minutes is None else Spread(median=60 * question.wait_minutes, sigma=1.0)
    return FoundConditions(
        conditions=SiteConditions(
            submit_limits=limits,
            list_limits=lambda job: (*names.get(id(job.resources), ()), OWN_LIMIT),
            capacity=capacity,
            wait=wait,
            tick_s=60 * minutes,
            chained=True,
        ),
        basis=tuple(basis),
    )


def _ask_site_limits(
    stored: StoredSweep, jobs: Collection[Job]
) -> tuple[list[SubmitLimit], dict[int, Collection[str]], str]:
    """The site's limits on submitted jobs, the names of those under which each kind of resources counts, and a remark.

    A limit has the room that it has now for this sweep, with what the sweep has in the queue itself.
    """
    # imported here: a sweep of this machine needs no client of Slurm
    from jobs.slurm.limits import compute_queue_capacity, describe_limit, list_limit_names
    from sweep.submit.slurm import RoundRequest, open_slurm_round

    try:
        with open_slurm_round(stored, RoundRequest(wanted=(), dry=True)) as slurm_round:
            site, rows = slurm_round.site, slurm_round.slurm.answers.queue.rows
            own = {job.key for job in jobs if job.key in slurm_round.live}
    except NoSchedulerError as error:
        return [], {}, f"limits on submitted jobs: not known ({error})"
    left = compute_queue_capacity(site, rows, site.user)
    names = {id(job.resources): list_limit_names(job, site, site.user) for job in jobs}
    limits = [
        SubmitLimit(
            name=describe_limit(name),
            most=room + sum(job.key in own and name in names[id(job.resources)] for job in jobs),
        )
        for name, room in left.items()
    ]
    said: dict[int, Collection[str]] = {kind: [describe_limit(name) for name in found] for kind, found in names.items()}
    return limits, said, f"limits on submitted jobs: {format_counted(len(limits), 'limit')} of the site, as asked now"


def _change_capacity(found: Capacity, question: ForecastQuestion) -> Capacity:
    changed = replace(
        found,
        gpus=found.gpus if question.gpus is None else question.gpus,
        cores=found.cores if question.cores is None else question.cores,
    )
    if question.gpus is None and question.cores is None:
        return changed
    given = [
        *([] if question.gpus is None else [format_counted(question.gpus, "GPU")]),
        *([] if question.cores is None else [format_counted(question.cores, "core")]),
    ]
    return replace(changed, basis=f"{' and '.join(given)}, as given")
