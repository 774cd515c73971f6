"""How long a sweep still takes: what its own finished jobs show, laid over what is left of its graph.

Nothing is said without ground: each kind of job that is left (a phase of a model, in one precision and by one engine)
needs a finished one of this sweep on the same type of device; trunk segments and image-text runs of one model, which
are one stage, may stand in for each other. From these come the seconds for a unit of work and what
an attempt takes beside its steps. Then the remaining jobs are started one after the other as the runner would, on the
slots that there are.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from jobs.counted import format_counted
from jobs.job import Job, Resources
from jobs.local.runner_lock import find_runner_owner
from jobs.local.slots import detect_machine_slots
from jobs.reconcile.attempts import read_tail
from jobs.reconcile.order import NO_TRUNK, WHOLE_TRUNK, sort_jobs
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import STOPPED, JobState
from jobs.store.paths import Store
from jobs.store.reading import parse_object
from jobs.store.records import AttemptExit, AttemptStart
from jobs.store.results import list_names, read_finished_at
from sweep.canary.rule import read_held_jobs
from sweep.kept_limits import compute_priorities, read_limits
from sweep.phases import PHASES
from sweep.plan.manifest import map_jobs_to_models
from sweep.stored_sweep import StoredSweep

METRICS_TAIL_BYTES = 4_096
MOST_READ = 40
"""Finished jobs of a kind whose attempts are read; more would not move a median."""
NEWEST = 6
"""Finished jobs that say how fast the machine is now."""
MOST_NAMED = 2
"""Kinds of jobs of which none has finished that a message names."""
LEAST_LEFT = 0.05
"""Of a job's expected seconds: what is left at least while it runs longer than expected."""

JobKind = tuple[str, str, str, str]
"""Phase, model, precision and engine."""


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """`seconds` None: not known yet. `basis`: what the number is based on, for people."""

    seconds: float | None
    basis: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What may run at once."""

    cores: int
    gpus: int
    basis: str
    """In words."""


@dataclass(frozen=True, slots=True)
class FinishedTime:
    """What a finished job took."""

    wall: float
    """Seconds of all its attempts."""
    steps: float
    """Seconds of its steps, or of its scoring."""
    ended_at: float = 0.0
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What jobs of one kind take."""

    beside: float
    """Seconds of a job beside its steps, the median."""
    of_work: float
    """Seconds of steps for a unit of `compute_work`."""

    def estimate_seconds(self, job: Job) -> float:
        """Wall seconds of a whole job."""
        return self.beside + self.of_work * compute_work(job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a sweep at one moment. Jobs that are in none of the three wait, or were stopped."""

    jobs: Sequence[Job]
    """Parents before children."""
    models: Mapping[str, str]
    """The model that a job trains or asks, by the job's key."""
    finished: Mapping[str, FinishedTime]
    running: Mapping[str, float]
    """Seconds that the present attempt has run."""
    known: Mapping[str, float] = field(default_factory=dict)
    """Seconds left of jobs whose own metrics tell."""
    done_before: Mapping[str, float] = field(default_factory=dict)
    """Part of a waiting job's steps that an earlier attempt has done and kept."""
    stopped: frozenset[str] = frozenset()
    """Jobs that will not run: failed, cancelled, or behind such a one."""
    done: frozenset[str] = frozenset()
    """All that are done, those included whose times are not known."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    """As `jobs.reconcile.order` takes them."""

    @property
    def open(self) -> list[Job]:
        """Jobs that are to run or run."""
        return [job for job in self.jobs if job.key not in self.done and job.key not in self.stopped]


def find_job_kind(job: Job, models: Mapping[str, str]) -> JobKind:
    """What decides how fast a unit of work is done, besides the device."""
    engine = job.config.get("engine")
    name = str(engine.get("kind", "")) if isinstance(engine, Mapping) else ""
    return job.phase, models.get(job.key, ""), str(job.config.get("precision", "bf16")), name


def compute_work(job: Job) -> float:
    """A job's size in a unit that is the same for all jobs of a kind: the plan's seconds without start-up, FLOPs where
    it has no seconds, and 1 where nothing is estimated but the start-up (an evaluation without tasks)."""
    estimate, resources = job.estimate, job.resources
    work = float(estimate.flops + estimate.encoder_flops)
    if resources.gpus and estimate.gpu_hours:
        work = 3600 * (estimate.gpu_hours - estimate.startup_hours) / resources.gpus
    elif estimate.cpu_hours:
        work = 3600 * (estimate.cpu_hours - estimate.startup_hours) / resources.cores
    return work if work > 0 else 1.0


def measure_paces(progress: Progress) -> dict[JobKind, Pace]:
    """The pace of each kind of which a job has finished, at the tempo of the newest jobs of all kinds.

    What a kind takes relative to others is a mean over the whole run; how fast the machine is changes with what else it
    does, and the newest jobs tell it best.
    """
    by_kind: dict[JobKind, list[tuple[Job, FinishedTime]]] = {}
    for job in progress.jobs:
        if (took := progress.finished.get(job.key)) is not None:
            by_kind.setdefault(find_job_kind(job, progress.models), []).append((job, took))
    paces = {
        kind: Pace(
            beside=median(max(0.0, took.wall - took.steps) for _, took in found),
            of_work=sum(took.steps for _, took in found) / sum(compute_work(job) for job, _ in found),
        )
        for kind, found in by_kind.items()
    }
    newest = sorted((pair for found in by_kind.values() for pair in found), key=lambda pair: -pair[1].ended_at)[:NEWEST]
    expected = sum(paces[find_job_kind(job, progress.models)].estimate_seconds(job) for job, _ in newest)
    tempo = sum(took.wall for _, took in newest) / expected if expected else 1.0
    return {kind: Pace(beside=tempo * pace.beside, of_work=tempo * pace.of_work) for kind, pace in paces.items()}


def find_pace(kind: JobKind, paces: Mapping[JobKind, Pace]) -> Pace | None:
    """The pace of a kind. Trunk and image-text run are one stage of one model: each may stand in for the other."""
    phase, *rest = kind
    other = {"trunk": "pretrain", "pretrain": "trunk"}.get(phase, phase)
    model, precision, engine = rest
    return paces.get(kind) or paces.get((other, model, precision, engine))


# Why: docs/decisions.md, D93, D212
def estimate_time_left(progress: Progress, capacity: Capacity | None) -> TimeLeft:
    """Seconds to the end of all open jobs. `capacity` None: nobody knows how many would run at once."""
    left = progress.open
    if not left:
        return TimeLeft(0.0, "nothing is left to run")
    paces = measure_paces(progress)
    seconds: dict[str, float] = {}
    missing: dict[str, None] = {}
    whole: dict[tuple[JobKind, int, int], float] = {}  # jobs of a large sweep share few estimates and resources
    for job in left:
        if job.key in progress.known:
            seconds[job.key] = progress.known[job.key]
            continue
        kind = find_job_kind(job, progress.models)
        alike = kind, id(job.estimate), id(job.resources)
        begun = job.key in progress.running or job.key in progress.done_before
        if not begun and alike in whole:
            seconds[job.key] = whole[alike]
        elif (pace := find_pace(kind, paces)) is not None:
            seconds[job.key] = estimate_rest(job, pace, progress)
            if not begun:
                whole[alike] = seconds[job.key]
        else:
            name = PHASES[job.phase].job if job.phase in PHASES else job.phase
            missing[f"{name} of {kind[1]}" if kind[1] else name] = None
    if missing:
        return TimeLeft(None, describe_missing_kinds(list(missing)))
    if capacity is None:
        return TimeLeft(None, "nothing runs now, so nobody knows how many jobs would run at once")
    basis = f"{capacity.basis}; {format_counted(len(progress.finished), 'finished job')}"
    return TimeLeft(compute_schedule_end(progress, seconds, capacity), basis)


def describe_missing_kinds(names: Sequence[str]) -> str:
    """`no fine-tune of 1.4b and no evaluation of 1.4b has finished`; of many kinds the first two."""
    shown = [f"no {name}" for name in names[:MOST_NAMED]]
    if len(names) > MOST_NAMED:
        shown.append(f"none of {format_counted(len(names) - MOST_NAMED, 'other kind')}")
    return f"{' and '.join(shown)} has finished"


def estimate_rest(job: Job, pace: Pace, progress: Progress) -> float:
    """Wall seconds that a job still takes."""
    whole = pace.estimate_seconds(job)
    if job.key in progress.running:
        return max(LEAST_LEFT * whole, whole - progress.running[job.key])
    kept = progress.done_before.get(job.key, 0.0)
    return whole - kept * (whole - pace.beside)


# Starting the remaining jobs on what there is, in the runner's order.


def compute_schedule_end(progress: Progress, seconds: Mapping[str, float], capacity: Capacity) -> float:
    """Seconds until the last of the jobs ends, each started when its parents are done and its cores or GPUs are free.

    A job that wants more than there is takes all of it. One that has to wait holds back those behind it that want the
    same kind of device.
    """
    jobs = {job.key: job for job in progress.jobs if job.key in seconds}
    trunk_depth = WHOLE_TRUNK if capacity.cores > 1 or capacity.gpus > 1 else NO_TRUNK
    order = sort_jobs(progress.jobs, progress.done, progress.priorities, trunk_depth=trunk_depth)
    rank = {job.key: place for place, job in enumerate(order)}
    children: dict[str, list[str]] = {key: [] for key in jobs}
    waits = {key: sum(parent in jobs for parent in job.parents) for key, job in jobs.items()}
    for key, job in jobs.items():
        for parent in job.parents:
            if parent in jobs:
                children[parent].append(key)
    free = {True: max(1, capacity.gpus), False: max(1, capacity.cores)}
    most = dict(free)
    ready: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
    ends: list[tuple[float, str]] = []
    now = 0.0

    def find_wanted(resources: Resources) -> tuple[bool, int]:
        on_gpus = resources.gpus > 0
        return on_gpus, min(resources.gpus if on_gpus else resources.cores, most[on_gpus])

    kinds = {id(job.resources): find_wanted(job.resources) for job in jobs.values()}
    wanted = {key: kinds[id(job.resources)] for key, job in jobs.items()}
    for key in jobs:
        if key in progress.running:
            on_gpus, number = wanted[key]
            free[on_gpus] -= number
            heapq.heappush(ends, (seconds[key], key))
        elif not waits[key]:
            heapq.heappush(ready[wanted[key][0]], (rank[key], key))
    while True:
        for on_gpus, queue in ready.items():
            while queue and wanted[queue[0][1]][1] <= free[on_gpus]:
                key = heapq.heappop(queue)[1]
                free[on_gpus] -= wanted[key][1]
                heapq.heappush(ends, (now + seconds[key], key))
        if not ends:
            return now
        now, ended = heapq.heappop(ends)
        on_gpus, number = wanted[ended]
        free[on_gpus] += number
        for child in children[ended]:
            waits[child] -= 1
            if not waits[child] and child not in progress.running:
                heapq.heappush(ready[wanted[child][0]], (rank[child], child))


# What the store shows of it.


def read_time_left(
    stored: StoredSweep, snapshot: SweepSnapshot, now: float, wanted: Collection[str] | None = None
) -> TimeLeft:
    """How long the sweep still takes as things stand, or its jobs `wanted` alone. `now`: Unix seconds."""
    progress = read_progress(snapshot, map_jobs_to_models(stored.manifest), now)
    if wanted is not None:  # the others still show how long jobs take
        others = frozenset(job.key for job in snapshot.jobs if job.key not in wanted)
        progress = replace(progress, stopped=progress.stopped | others)
    kept = read_limits(stored.paths.limits)
    held = read_held_jobs(stored, snapshot, kept)
    priorities = compute_priorities(stored, kept.first)
    progress = replace(progress, stopped=progress.stopped | held.stopped, priorities=priorities)
    if (kept.backend or stored.manifest.backend) == "local":
        return estimate_time_left(progress, find_local_capacity(stored.store, progress))
    return estimate_time_left(progress, measure_running_capacity(progress.open, progress.running))


def find_local_capacity(store: Store, progress: Progress) -> Capacity:
    """What the live runner gives to jobs; without one what this machine has."""
    owner = find_runner_owner(store)
    if owner is not None and owner.cpus:
        return describe_capacity(owner.cpus, owner.gpus, "")
    if owner is not None and (now := measure_running_capacity(progress.open, progress.running)) is not None:
        return now
    with_gpus = any(job.resources.gpus for job in progress.open)
    slots = detect_machine_slots(gpus=None if with_gpus else 0)
    return describe_capacity(slots.cpus, len(slots.devices), " of this machine, once they are submitted")


def describe_capacity(cores: int, gpus: int, where: str) -> Capacity:
    """With its words."""
    devices = [*([format_counted(gpus, "GPU")] if gpus else []), format_counted(cores, "core")]
    return Capacity(cores=cores, gpus=gpus, basis=f"{' and '.join(devices)}{where}")


def read_progress(snapshot: SweepSnapshot, models: Mapping[str, str], now: float) -> Progress:
    """A sweep at this moment. `models`: by key; `now`: Unix seconds."""
    running: dict[str, float] = {}
    known: dict[str, float] = {}
    kept: dict[str, float] = {}
    in_state: dict[JobState, set[str]] = {}
    for job in snapshot.jobs:
        state, evidence = snapshot.statuses[job.key].state, snapshot.runs[job.key]
        in_state.setdefault(state, set()).add(job.key)
        if state is JobState.RUNNING:
            started = evidence.last.start.started_at if evidence.last else now
            running[job.key] = max(0.0, now - started)
            if evidence.last and (seconds := estimate_from_metrics(evidence, started, now)) is not None:
                known[job.key] = seconds
        elif state not in STOPPED and evidence.last is not None and (part := compute_kept_part(evidence)):
            kept[job.key] = part  # of a job that will not run nobody asks
    done = frozenset(in_state.get(JobState.DONE, ()))
    return Progress(
        jobs=snapshot.jobs,
        models=models,
        finished=read_finished_times(snapshot, models, done),
        running=running,
        known=known,
        done_before=kept,
        stopped=frozenset(key for state in STOPPED for key in in_state.get(state, ())),
        done=done,
    )


def read_finished_times(
    snapshot: SweepSnapshot, models: Mapping[str, str], done: frozenset[str]
) -> dict[str, FinishedTime]:
    """Of finished jobs that ran on the type of device that the plan asks for; the newest `MOST_READ` of each kind."""
    found: dict[str, FinishedTime] = {}
    read: dict[JobKind, int] = {}
    finished = [job for job in snapshot.jobs if job.key in done]
    kinds: dict[tuple[str, str, int], JobKind] = {}  # jobs of a large sweep share few configurations
    for job in sorted(finished, key=lambda job: -snapshot.runs[job.key].finished_at):
        alike = job.phase, models.get(job.key, ""), id(job.config)
        kind = kinds.get(alike) or kinds.setdefault(alike, find_job_kind(job, models))
        if read.get(kind, 0) >= MOST_READ:
            continue
        took = read_finished_time(job, snapshot.runs[job.key])
        if took is not None:
            found[job.key] = took
            read[kind] = read.get(kind, 0) + 1
    return found


def read_finished_time(job: Job, evidence: RunStatus) -> FinishedTime | None:
    """What a finished job took; None where its attempts do not tell, or ran on another type of device."""
    result = evidence.read_result() or {}
    steps, finished_at = result.get("seconds"), read_finished_at(result)
    if not isinstance(steps, int | float) or not finished_at or steps <= 0:
        return None
    wall = 0.0
    for name in list_names(evidence.run.attempts):
        paths = evidence.run.locate_attempt(name)
        start, end = AttemptStart.read(paths.start), AttemptExit.read(paths.exit)
        if start is None:
            continue
        if (start.gpu_type if start.gpus else "") != (job.resources.gpu_type if job.resources.gpus else ""):
            return None
        wall += max(0.0, (end.ended_at if end else finished_at) - start.started_at)
    return FinishedTime(wall=max(wall, steps), steps=steps, ended_at=finished_at)


# Why: docs/decisions.md, D192
def estimate_from_metrics(evidence: RunStatus, started_at: float, now: float) -> float | None:
    """Seconds left at the pace between this attempt's last lines of metrics; None with fewer than two.

    What passed before the first line (imports, compiling, filling caches) is no pace.
    """
    own = []
    for line in read_tail(evidence.run.metrics, METRICS_TAIL_BYTES).splitlines():
        try:
            record = parse_object(line)
            row = float(record["time"]), float(record["step"]), float(record["total_steps"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue  # half written, or the rest of a line whose begin was cut off
        if row[0] > started_at:
            own.append(row)
    if len(own) < 2 or own[-1][1] <= own[0][1]:
        return None
    (first_time, first_step, _), (time, step, total) = own[0], own[-1]
    return max(0.0, (total - step) * (time - first_time) / (step - first_step) - (now - time))


def compute_kept_part(evidence: RunStatus) -> float:
    """Part of the job's steps that its last attempt's newest checkpoint holds; 0 where that is not known."""
    last, metrics = evidence.last, read_last_metrics(evidence)
    kept = last.end.checkpoint_step if last and last.end else -1
    try:
        first, total = float(metrics.get("first_step", 0)), float(metrics["total_steps"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0
    return min(1.0, max(0.0, (kept - first) / (total - first))) if total > first else 0.0


def read_last_metrics(evidence: RunStatus) -> Mapping[str, Any]:
    """The last whole line of metrics.jsonl; empty if there is none."""
    for line in reversed(read_tail(evidence.run.metrics, METRICS_TAIL_BYTES).splitlines()):
        try:
            return parse_object(line)
        except ValueError:
            continue  # half written
    return {}


def measure_running_capacity(jobs: Iterable[Job], running: Iterable[str]) -> Capacity | None:
    """On a cluster: as many devices as the sweep's jobs hold now; None where none runs."""
    jobs, keys = list(jobs), set(running)
    now = [job for job in jobs if job.key in keys]
    if not now:
        return None
    gpus = sum(job.resources.gpus for job in now)
    cores = sum(job.resources.cores for job in now if not job.resources.gpus)
    # of a kind that does not run now: one job at a time
    gpus = gpus or max((job.resources.gpus for job in jobs), default=0)
    cores = cores or max((job.resources.cores for job in jobs if not job.resources.gpus), default=1)
    return Capacity(cores=cores, gpus=gpus, basis=f"as many at once as now, {format_counted(len(now), 'job')}")
