"""The campaign that a stored sweep still is: its open jobs, what they take, and the site's limits."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import hypot, log
from statistics import fmean, median, pstdev

from jobs.counted import format_counted
from jobs.job import Job, add_ancestors
from jobs.observation import ClusterState
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.order import NEXT_TRUNK_DEPTH, WHOLE_TRUNK, sort_jobs
from jobs.reconcile.snapshot import SweepSnapshot
from sweep.forecast.campaign import NO_LIMIT, NOTHING, Campaign, CampaignJob, JobShape, Spread
from sweep.forecast.conditions import SiteConditions
from sweep.kept_limits import select_kept_jobs
from sweep.phases import PHASES
from sweep.report.time_left import (
    Capacity,
    JobKind,
    Pace,
    Progress,
    compute_work,
    find_job_kind,
    find_pace,
    measure_paces,
)
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_duration

ASSUMED_DOUBT = 0.3
"""Sigma of the speed of a model that no finished job of this sweep has shown: a catalog's utilisation may be a third
off either way."""
ANY_PHASE = ""
"""In the place of a phase of which too few jobs have waited."""
LEAST_DRIFT = 0.05
"""Sigma of how fast all is, however many jobs have finished: nodes, files and neighbours of next week are others."""
DRIFT_BLOCKS, DRIFT_BLOCK = 4, 5
"""Parts of the time so far that are compared, and the fewest jobs of a part."""
LEAST_SIGMA = 0.03
ASSUMED_SIGMA = 0.1
"""Of a job around the mean of its kind, where fewer than `LEAST_SEEN` have finished."""
ASSUMED_STARTUP_SIGMA = 0.3
"""Of what an attempt takes beside its steps, likewise."""
LEAST_SEEN = 3
NEAR_LIMIT = 0.8
"""Of the time limit: a job that went back into the queue after it did so by itself, to go on."""
LEAST_WAIT = 0.5
"""Seconds."""
MOST_NAMED = 3
"""Shapes of jobs that a line names."""
CHECKPOINT_MINUTES = 10.0
"""Between two checkpoints, where a job's settings say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chances:
    """What the sweep's own ends show of trouble."""

    fail: float
    """Of an attempt."""
    preempted_per_hour: float
    seen_attempts: int


def build_campaign(
    snapshot: SweepSnapshot, progress: Progress, conditions: SiteConditions
) -> tuple[Campaign, tuple[str, ...]]:
    """Of the open jobs, in the order in which a round sends them; and what it rests on, one line each."""
    builder = _CampaignBuilder(snapshot, progress, conditions)
    campaign = builder.build()
    return campaign, builder.describe_basis()


def select_open(
    stored: StoredSweep, kept: Collection[str], cells: Sequence[str] = (), without: Sequence[str] = ()
) -> set[str]:
    """Keys of the jobs that are to end: of `cells`, else of the kept choice, else of all, with what they need, but
    without the jobs that `without` names or that only its cells need, and without what builds on these.

    Raises NotPlannedError and UsageError for words that mean no cell or job of the plan.
    """
    jobs = stored.manifest.jobs
    if cells:
        named = {job.key for job in stored.select_jobs(cells)}
    else:
        named = select_kept_jobs(stored, kept) if kept else {job.key for job in jobs}
    if not without:
        return add_ancestors(jobs, named)
    chosen = stored.select_cells(without)
    gone: set[str] = set()
    for job in jobs:  # parents before children
        if chosen.has_job_alone(job) or not gone.isdisjoint(job.parents):
            gone.add(job.key)
    by_name = chosen.keys.union(named if cells else ())
    wanted = {job.key for job in jobs if job.key in named and job.key not in gone and (job.cells or job.key in by_name)}
    return add_ancestors(jobs, wanted)


class _CampaignBuilder:
    def __init__(self, snapshot: SweepSnapshot, progress: Progress, conditions: SiteConditions) -> None:
        self.snapshot, self.progress, self.conditions = snapshot, progress, conditions
        self.paces = measure_paces(progress)
        self.sigmas = measure_sigmas(progress, self.paces)
        self.startups = measure_startup_sigmas(progress)
        self.chances = replace_chances(measure_chances(snapshot), conditions)
        self.waits = measure_waits(snapshot, conditions.room)
        self.launch = measure_launch(snapshot, progress)
        self.shapes: dict[tuple[object, ...], int] = {}
        self.kept: list[JobShape] = []
        self.doubt: dict[str, float] = {}
        self.assumed: dict[str, None] = {}
        """Names of shapes of which no finished job shows the speed."""
        self.seen = Counter(
            find_job_kind(job, progress.models) for job in progress.jobs if job.key in progress.finished
        )
        self.places = {limit.name: place for place, limit in enumerate(conditions.submit_limits)}

    def build(self) -> Campaign:
        wanted = {job.key for job in self.progress.open}
        trunk_depth = NEXT_TRUNK_DEPTH if self.conditions.chained else WHOLE_TRUNK
        order = sort_jobs(self.progress.jobs, self.progress.done, self.progress.priorities, trunk_depth=trunk_depth)
        left = [job for job in order if job.key in wanted]
        place_of = {job.key: place for place, job in enumerate(left)}
        jobs = [self._build_job(job, tuple(place_of[key] for key in job.parents if key in place_of)) for job in left]
        return Campaign(
            jobs=jobs,
            shapes=self.kept,
            submit_limits=self.conditions.submit_limits,
            pools=self.conditions.pools,
            tick_s=self.conditions.tick_s,
            requeue_s=self.conditions.requeue_s,
            chained=self.conditions.chained,
            doubt=self.doubt,
            drift=hypot(LEAST_DRIFT, measure_drift(self.progress, self.paces)),
        )

    def describe_basis(self) -> tuple[str, ...]:
        """What the campaign rests on, one line each; after `build`."""
        return (*self._describe_speeds(), *self._describe_trouble(), *self._describe_waits())

    def _describe_speeds(self) -> Iterator[str]:
        if self.progress.finished:
            yield f"speeds: {format_counted(len(self.progress.finished), 'finished job')} of this sweep"
        if self.assumed:
            named = ", ".join(list(self.assumed)[:MOST_NAMED])
            more = f" and {len(self.assumed) - MOST_NAMED} more" if len(self.assumed) > MOST_NAMED else ""
            yield f"speeds as the plan assumes them, a third more or less: {named}{more}"

    def _describe_trouble(self) -> Iterator[str]:
        chances = self.chances
        if not self.conditions.chained and not chances.fail and not chances.preempted_per_hour:
            return
        rates = f"{100 * chances.fail:.1f} % of attempts fail, {24 * chances.preempted_per_hour:.2f} preemptions a day"
        if self.conditions.fail is not None or self.conditions.preempted_per_hour is not None:
            yield f"trouble: {rates}, as given"
        elif chances.seen_attempts:
            yield f"trouble: {rates}, as in {format_counted(chances.seen_attempts, 'execution')} so far"
        else:
            yield "trouble: none, as nothing has run yet; what if: --failures, --preemptions"

    def _describe_waits(self) -> Iterator[str]:
        if (given := self.conditions.wait) is not None:
            yield f"waits in the queue: {format_duration(given.median / 3600)}, as given"
        elif self.waits:
            words = [
                f"{phase} {format_duration(wait.median / 3600)}"
                for phase, wait in self.waits.items()
                if phase != ANY_PHASE
            ] or [f"all phases {format_duration(self.waits[ANY_PHASE].median / 3600)}"]
            yield f"waits in the queue, of this sweep's own jobs: {', '.join(words)}"
        elif self.conditions.chained:
            yield "waits in the queue: none known; say how long jobs wait at your site: --wait-minutes M"

    def _build_job(self, job: Job, parents: tuple[int, ...]) -> CampaignJob:
        kind = find_job_kind(job, self.progress.models)
        pace = find_pace(kind, self.paces)
        running = self.progress.running.get(job.key)
        steps = pace.of_work * compute_work(job) if pace else job.planned_seconds
        startup = pace.beside if pace else estimate_planned_startup(job)
        if running is not None:
            known = self.progress.known.get(job.key)
            steps = known if known is not None else max(0.05 * steps, startup + steps - running)
        else:
            steps *= 1.0 - self.progress.done_before.get(job.key, 0.0)
        observed = self.snapshot.observed.get(job.key)
        return CampaignJob(
            key=job.key,
            shape=self._find_shape(job, kind, pace),
            steps=Spread(median=steps, sigma=self.sigmas.get(kind, ASSUMED_SIGMA)),
            parents=parents,
            running_s=running,
            queued=observed is not None and observed.state is ClusterState.QUEUED,
            phase=job.phase,
            cells=job.cells,
        )

    def _find_shape(self, job: Job, kind: JobKind, pace: Pace | None) -> int:
        limits = tuple(sorted(self.places[name] for name in self.conditions.list_limits(job) if name in self.places))
        known = (job.phase, kind, id(job.resources), id(job.estimate), limits)
        if known not in self.shapes:
            self.shapes[known] = len(self.kept)
            self.kept.append(self._build_shape(job, kind, pace, limits))
        return self.shapes[known]

    def _build_shape(self, job: Job, kind: JobKind, pace: Pace | None, limits: tuple[int, ...]) -> JobShape:
        resources = job.resources
        name = self._name_shape(job, kind, pace)
        startup = pace.beside if pace else estimate_planned_startup(job)
        minutes = job.settings.get("checkpoint_minutes", CHECKPOINT_MINUTES)
        return JobShape(
            name=name,
            gpus=resources.gpus,
            limit_s=60.0 * resources.time_minutes if self.conditions.chained else NO_LIMIT,
            startup=Spread(median=startup + self.launch, sigma=self.startups.get(kind, ASSUMED_STARTUP_SIGMA)),
            wait=self.conditions.wait or self.waits.get(job.phase) or self.waits.get(ANY_PHASE, NOTHING),
            lost_s=30.0 * float(minutes) if isinstance(minutes, int | float) else 0.0,
            fail=self.chances.fail,
            preempted_per_hour=self.chances.preempted_per_hour,
            submit_limits=limits,
            takes=tuple(self.conditions.list_taken(job)),
        )

    def _name_shape(self, job: Job, kind: JobKind, pace: Pace | None) -> str:
        """And notes how far its speed may be off: that of one model's training is one guess for all its phases, and
        what finished jobs show is known the better the more they are."""
        if pace is None:
            name = f"{'evaluation' if job.stage == 'evaluate' else 'training'} of {kind[1] or job.phase}"
            self.assumed[name] = None
            self.doubt[name] = ASSUMED_DOUBT
        else:
            name = f"{PHASES[job.phase].job if job.phase in PHASES else job.phase} of {kind[1]}"
            sigma = self.sigmas.get(kind, ASSUMED_SIGMA)
            seen = sigma / max(1, self.seen[kind]) ** 0.5
            self.doubt[name] = max(self.doubt.get(name, 0.0), seen)
        return name


def estimate_planned_startup(job: Job) -> float:
    """Seconds, as the plan has them."""
    devices = job.resources.gpus or job.resources.cores
    return 3600 * job.estimate.startup_hours / devices if devices else 0.0


def measure_sigmas(progress: Progress, paces: Mapping[JobKind, Pace]) -> dict[JobKind, float]:
    """How far finished jobs of each kind lie from the pace of their kind, as the sigma of a logarithm."""
    ratios: dict[JobKind, list[float]] = {}
    for job in progress.jobs:
        took = progress.finished.get(job.key)
        kind = find_job_kind(job, progress.models)
        if took is not None and took.steps > 0 and kind in paces:
            ratios.setdefault(kind, []).append(log(took.steps / (paces[kind].of_work * compute_work(job))))
    return {kind: max(LEAST_SIGMA, pstdev(each)) for kind, each in ratios.items() if len(each) >= LEAST_SEEN}


# Why: docs/decisions.md, D213
def measure_drift(progress: Progress, paces: Mapping[JobKind, Pace]) -> float:
    """How far the tempo of all jobs went up and down so far, as the sigma of a logarithm: a machine that others load
    and leave will do so again. 0 where too few have finished."""
    ended = [job for job in progress.jobs if job.key in progress.finished]
    ended.sort(key=lambda job: progress.finished[job.key].ended_at)
    ratios = []
    for job in ended:
        wall = progress.finished[job.key].wall
        expected = paces[find_job_kind(job, progress.models)].estimate_seconds(job)
        if wall > 0 and expected > 0:
            ratios.append(log(wall / expected))
    length = max(DRIFT_BLOCK, -(-len(ratios) // DRIFT_BLOCKS))
    blocks = [ratios[first : first + length] for first in range(0, len(ratios) - DRIFT_BLOCK + 1, length)]
    return pstdev([fmean(block) for block in blocks]) if len(blocks) > 1 else 0.0


def measure_startup_sigmas(progress: Progress) -> dict[JobKind, float]:
    """How far finished jobs of each kind lie apart in what they took beside their steps, likewise."""
    beside: dict[JobKind, list[float]] = {}
    for job in progress.jobs:
        if (took := progress.finished.get(job.key)) is not None:
            kind = find_job_kind(job, progress.models)
            beside.setdefault(kind, []).append(log(max(LEAST_WAIT, took.wall - took.steps)))
    return {kind: pstdev(each) for kind, each in beside.items() if len(each) >= LEAST_SEEN}


def measure_chances(snapshot: SweepSnapshot) -> Chances:
    """Trouble among the executions that Slurm has accounted for, with nothing seen taken for nothing to come.

    Of what ended without a cause of Slurm's own, sacct says no more than that it failed or went back into the queue.
    """
    attempts = failed = interrupted = 0
    hours = 0.0
    for key, records in snapshot.accounting_records.items():
        job = snapshot.by_key.get(key)
        for row in records:
            if job is None or not row.ran:
                continue
            attempts += 1
            hours += row.elapsed_seconds / 3600
            policy = POLICIES[row.failure] if row.failure is not None else None
            at_limit = row.elapsed_seconds > NEAR_LIMIT * 60 * job.resources.time_minutes
            failed += row.state == "FAILED" or (policy is not None and policy.sent_again)
            interrupted += (row.state == "REQUEUED" and not at_limit) or (
                policy is not None and policy.requeued_by_slurm
            )
    return Chances(
        fail=failed / attempts if attempts else 0.0,
        preempted_per_hour=interrupted / hours if hours else 0.0,
        seen_attempts=attempts,
    )


def replace_chances(found: Chances, conditions: SiteConditions) -> Chances:
    """With what is given in place of what was found."""
    fail, preempted = conditions.fail, conditions.preempted_per_hour
    return replace(
        found,
        fail=found.fail if fail is None else fail,
        preempted_per_hour=found.preempted_per_hour if preempted is None else preempted,
    )


def measure_waits(snapshot: SweepSnapshot, capacity: Capacity | None) -> dict[str, Spread]:
    """By phase, what jobs waited after nothing of this sweep held them back.

    A wait counts where the sweep's own jobs left room within `capacity` at its beginning: else it was for them.
    """
    rows = {key: [row for row in records if row.ran] for key, records in snapshot.accounting_records.items()}
    use = DeviceUse(row for records in rows.values() for row in records)
    waits: dict[str, list[float]] = {ANY_PHASE: []}
    for job in snapshot.jobs:
        first = {row.id: row for row in reversed(rows.get(job.key, ()))}
        for row in first.values():  # one that went back into the queue waits for more than others
            eligible = max([row.submitted_at, *(find_end(snapshot, parent) for parent in job.parents)])
            if row.started_at >= eligible > 0 and use.has_room(job, eligible, capacity):
                for phase in (job.phase, ANY_PHASE):
                    waits.setdefault(phase, []).append(row.started_at - eligible)
    return {phase: describe_waits(found) for phase, found in waits.items() if len(found) >= LEAST_SEEN}


def find_end(snapshot: SweepSnapshot, key: str) -> float:
    """When a job's children may start: at the end that Slurm has of it, else when its result was written."""
    ends = [row.ended_at for row in snapshot.accounting_records.get(key, ())]
    return max([snapshot.runs[key].finished_at, *ends])


def measure_launch(snapshot: SweepSnapshot, progress: Progress) -> float:
    """Seconds of an execution that Slurm counts beside the attempt within it (prologue, modules, container), the
    median over finished jobs; 0 where nothing shows it."""
    found = []
    for key, took in progress.finished.items():
        rows = [row for row in snapshot.accounting_records.get(key, ()) if row.ran]
        if rows:
            found.append(max(0.0, sum(row.elapsed_seconds for row in rows) - took.wall) / len(rows))
    return median(found) if found else 0.0


class DeviceUse:
    """What executions that have ended held at any moment: GPUs, and cores of those without a GPU."""

    def __init__(self, rows: Iterable[AccountingRecord]) -> None:
        changes: list[tuple[float, int, int]] = []
        for row in rows:
            gpus, cores = (row.gpus, 0) if row.gpus else (0, row.cpus)
            changes += [(row.started_at, gpus, cores), (row.ended_at, -gpus, -cores)]
        changes.sort()
        self._moments = [moment for moment, _, _ in changes]
        self._gpus = list(accumulate(gpus for _, gpus, _ in changes))
        self._cores = list(accumulate(cores for _, _, cores in changes))

    def has_room(self, job: Job, moment: float, capacity: Capacity | None) -> bool:
        """Whether the job fits within the capacity beside what ran at the moment."""
        place = bisect_right(self._moments, moment) - 1
        if capacity is None or place < 0:
            return True
        if job.resources.gpus:
            return self._gpus[place] + job.resources.gpus <= capacity.gpus
        return self._cores[place] + job.resources.cores <= capacity.cores


def describe_waits(seconds: Sequence[float]) -> Spread:
    """Their median and spread. Slurm's times are whole seconds: a wait of none may be half of one."""
    if not any(seconds):
        return NOTHING
    known = [max(LEAST_WAIT, each) for each in seconds]
    return Spread(median=median(known), sigma=pstdev([log(each) for each in known]))
