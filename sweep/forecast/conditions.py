"""What a sweep's campaign meets on this machine or on this cluster, and what a question "what if" changes of it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from jobs.counted import format_counted
from jobs.errors import NoSchedulerError
from jobs.job import Job
from jobs.observation import ClusterState
from jobs.reconcile.snapshot import SweepSnapshot
from sweep.errors import UsageError
from sweep.forecast.campaign import Pool, QueueLimit, Spread
from sweep.kept_limits import KeptLimits
from sweep.report.time_left import Capacity, Progress, find_local_capacity, measure_running_capacity
from sweep.stored_sweep import StoredSweep

TICK_MINUTES = 10.0
"""As docs/slurm.md has it in crontab."""
WAIT_SIGMA = 1.0
"""Of a wait that is given by its median: two thirds of them lie between a third and three times of it."""
OWN_LIMIT = "--max-queued"
REQUEUE_SECONDS = 121.0
"""Slurm's usual: a second more than the life of a job's credential."""
MANY = 10**15
"""Devices: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastQuestion:
    """What is to be assumed in place of what is found; None: as it is found."""

    gpus: int | None = None
    cores: int | None = None
    max_queued: int | None = None
    wait_minutes: float | None = None
    tick_minutes: float | None = None
    fail_percent: float | None = None
    """Of attempts."""
    preempted_per_day: float | None = None
    """Of a running job."""

    @property
    def wait(self) -> Spread | None:
        return None if self.wait_minutes is None else Spread(median=60 * self.wait_minutes, sigma=WAIT_SIGMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConditions:
    """What a campaign meets besides its own graph."""

    submit_limits: Sequence[QueueLimit] = ()
    list_limits: Callable[[Job], Collection[str]] = lambda _job: ()
    """Names of the limits that a job counts under, among `submit_limits`."""
    pools: Sequence[Pool] = ()
    list_taken: Callable[[Job], Sequence[tuple[int, float]]] = lambda _job: ()
    """Places in `pools` of what a job takes from while it runs, and how much of each."""
    room: Capacity | None = None
    """Devices that the sweep's own jobs could hold: who waited while they held less waited for others. None: not
    known."""
    wait: Spread | None = None
    """In the site's queue; None: as the accounting of the sweep's own jobs shows, else nothing."""
    fail: float | None = None
    """Chance that an attempt fails; None: as the accounting shows, and likewise the next."""
    preempted_per_hour: float | None = None
    tick_s: float = 0.0
    requeue_s: float = 0.0
    chained: bool = False
    basis: tuple[str, ...] = ()
    """What this rests on, one line each."""


def find_conditions(
    stored: StoredSweep, snapshot: SweepSnapshot, progress: Progress, kept: KeptLimits, question: ForecastQuestion
) -> SiteConditions:
    """Of the sweep's back end. A cluster that does not answer is no error: its limits are then left out, and told."""
    if (kept.backend or stored.manifest.backend) == "local":
        found = find_local_conditions(stored, progress, question)
    else:
        found = find_cluster_conditions(stored, snapshot, progress, kept, question)
    percent, per_day = question.fail_percent, question.preempted_per_day
    return replace(
        found,
        wait=question.wait,
        fail=None if percent is None else percent / 100,
        preempted_per_hour=None if per_day is None else per_day / 24,
    )


def find_local_conditions(stored: StoredSweep, progress: Progress, question: ForecastQuestion) -> SiteConditions:
    """This machine runs a job when its parents are done and its cores or GPUs are free.

    UsageError for a question about what only Slurm has.
    """
    for option, given in (("--max-queued", question.max_queued), ("--tick-minutes", question.tick_minutes)):
        if given is not None:
            raise UsageError(f"{option} is of Slurm, and {stored.manifest.sweep} runs on this machine: leave it out")
    capacity = replace_capacity(find_local_capacity(stored.store, progress), question)
    pools, list_taken = build_device_pools(capacity, holds_back=True)
    return SiteConditions(pools=pools, list_taken=list_taken, room=capacity, basis=(f"devices: {capacity.basis}",))


def build_device_pools(
    capacity: Capacity, *, holds_back: bool, first: int = 0
) -> tuple[list[Pool], Callable[[Job], Sequence[tuple[int, float]]]]:
    """GPUs and cores, and what a job takes of them: a job with GPUs takes no core. `first`: the place of the first."""
    pools = [
        Pool(name=name, most=max(1, most) if most < MANY else float("inf"), holds_back=holds_back)
        for name, most in (("GPUs", capacity.gpus), ("cores", capacity.cores))
    ]

    def list_taken(job: Job) -> Sequence[tuple[int, float]]:
        resources = job.resources
        return [(first, float(resources.gpus)) if resources.gpus else (first + 1, float(resources.cores))]

    return pools, list_taken


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteAnswer:
    """What the cluster said of its limits, and of its nodes."""

    submit_limits: Sequence[QueueLimit] = ()
    names: dict[int, Collection[str]]
    """By `id` of a job's resources: the limits on submitted jobs under which it counts."""
    pools: Sequence[Pool] = ()
    takes: dict[int, tuple[tuple[int, float], ...]]
    room: Capacity | None = None
    requeue_s: float = REQUEUE_SECONDS
    basis: tuple[str, ...]


# Why: docs/decisions.md, D211
def find_cluster_conditions(
    stored: StoredSweep, snapshot: SweepSnapshot, progress: Progress, kept: KeptLimits, question: ForecastQuestion
) -> SiteConditions:
    """Slurm's limits and nodes, the sweep's own limits, the time between ticks."""
    site = ask_site(stored, progress.open)
    most = question.max_queued or kept.max_queued
    own = [QueueLimit(name=OWN_LIMIT, most=most)] if most is not None else []
    share = find_share(snapshot, progress, question)
    pools: list[Pool] = []
    list_share: Callable[[Job], Sequence[tuple[int, float]]] | None = None
    if share is not None:
        pools, list_share = build_device_pools(share, holds_back=False, first=len(site.pools))
    minutes = TICK_MINUTES if question.tick_minutes is None else question.tick_minutes
    return SiteConditions(
        submit_limits=[*site.submit_limits, *own],
        list_limits=lambda job: (*site.names.get(id(job.resources), ()), OWN_LIMIT),
        pools=[*site.pools, *pools],
        list_taken=lambda job: (*site.takes.get(id(job.resources), ()), *(list_share(job) if list_share else ())),
        room=share or site.room,
        tick_s=60 * minutes,
        requeue_s=site.requeue_s,
        chained=True,
        basis=(*describe_devices(share, site), *site.basis, f"a tick each {minutes:g} min"),
    )


def describe_devices(share: Capacity | None, site: SiteAnswer) -> list[str]:
    """The line on what may run at once."""
    if share is not None:
        return [f"devices: {share.basis}"]
    if site.room is not None:
        return [f"devices: {site.room.basis}; say how many you get: --gpus N"]
    return ["devices: as many as there are jobs for; say how many you get: --gpus N"]


def find_share(snapshot: SweepSnapshot, progress: Progress, question: ForecastQuestion) -> Capacity | None:
    """What the sweep gets of the cluster: as given, or as much as now while others of its jobs could start and do not;
    None where nothing tells, and the site's nodes and limits alone hold."""
    waits = any(
        seen.state is ClusterState.QUEUED and not seen.waits_for_parents and key in snapshot.statuses
        for key, seen in snapshot.observed.items()
    )
    running = measure_running_capacity(progress.open, progress.running) if waits else None
    if question.gpus is None and question.cores is None:
        return running
    return replace_capacity(running or Capacity(cores=MANY, gpus=MANY, basis=""), question)


def ask_site(stored: StoredSweep, jobs: Collection[Job]) -> SiteAnswer:
    """A limit on submitted jobs has the room that it has now for this sweep, with what the sweep has in the queue
    itself."""
    # imported here: a sweep of this machine needs no client of Slurm
    from jobs.slurm.site.limits import compute_queue_capacity, describe_limit, list_limit_names
    from sweep.forecast.site_pools import build_site_pools
    from sweep.submit.slurm import RoundRequest, open_slurm_round

    request = RoundRequest(wanted=(), dry=True, if_unreachable="its limits may hold the sweep up more")
    try:
        with open_slurm_round(stored, request) as slurm_round:
            site, rows = slurm_round.site, slurm_round.slurm.answers.queue.rows
            own = {job.key for job in jobs if job.key in slurm_round.snapshot.observed}
            problem = slurm_round.problem
    except NoSchedulerError as error:
        return SiteAnswer(names={}, takes={}, basis=(f"limits of the site: not known ({error})",))
    left = compute_queue_capacity(site, rows, site.user)
    names = {id(job.resources): list_limit_names(job, site, site.user) for job in jobs}
    held: dict[str, int] = dict.fromkeys(left, 0)
    for job in jobs:
        if job.key in own:
            for name in names[id(job.resources)]:
                held[name] = held.get(name, 0) + 1
    nodes = build_site_pools(jobs, site, site.user)
    room = None
    if nodes.cores:
        words = [*([format_counted(nodes.gpus, "GPU")] if nodes.gpus else []), format_counted(nodes.cores, "core")]
        whose = "of all nodes of the partitions, as if nobody else used them"
        room = Capacity(cores=nodes.cores, gpus=nodes.gpus, basis=f"{' and '.join(words)} {whose}")
    counted = f"limits of the site: {len(left)} on submitted jobs, as asked now"
    return SiteAnswer(
        submit_limits=[QueueLimit(name=describe_limit(name), most=most + held[name]) for name, most in left.items()],
        names={kind: [describe_limit(name) for name in found] for kind, found in names.items()},
        pools=nodes.pools,
        takes=nodes.takes,
        room=room,
        requeue_s=site.requeue_seconds,
        basis=(counted, *([f"the queue is not known: {problem}"] if problem else [])),
    )


def replace_capacity(found: Capacity, question: ForecastQuestion) -> Capacity:
    """With what is given in place of what was found, and words for it."""
    given = [
        *([] if question.gpus is None else [format_counted(question.gpus, "GPU")]),
        *([] if question.cores is None else [format_counted(question.cores, "core")]),
    ]
    if not given:
        return found
    return replace(
        found,
        gpus=found.gpus if question.gpus is None else question.gpus,
        cores=found.cores if question.cores is None else question.cores,
        basis=f"{' and '.join(given)}, as given",
    )
