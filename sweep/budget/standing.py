"""What each job of a sweep has cost, what it holds in flight, and what it would count if it were sent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.job import Job
from jobs.observation import ClusterState
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.reconcile.usage import Usage, compute_execution_usage
from jobs.slurm.sbatch_options import list_requested_kinds
from sweep.budget.tariff import NOTHING_SPENT, Amount, Tariff, find_wall_hours
from sweep.results.evidence import JobEvidence, load_job_evidence
from sweep.results.left_jobs import LeftHours, load_left_jobs, sum_left_hours

MOST_OVERRUN = 2.0
"""How often an estimate may count, where no finished job of its phase has taken more."""
IN_FLIGHT = {JobState.QUEUED, JobState.RUNNING, JobState.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStanding:
    """One job. `spent` is of executions that have ended, whatever became of them."""

    job: Job
    state: JobState
    in_plan: bool = True
    spent: Amount = NOTHING_SPENT
    wasted: Amount = NOTHING_SPENT
    """Part of it: work that no later checkpoint kept."""
    in_flight: Amount = NOTHING_SPENT
    """What it may still take, if a cluster has it."""
    running: Amount = NOTHING_SPENT
    """What the attempt that lives has used so far."""
    ahead: Amount = NOTHING_SPENT
    """What it may still take, if none has it and it is not done: what it counts when it is sent."""
    expected: Amount = NOTHING_SPENT
    """What it is estimated to take from now on."""
    remark: str = ""
    """Why not all that it has spent is Slurm's."""
    gpu_kinds: str = ""

    @property
    def is_in_flight(self) -> bool:
        return self.in_flight is not NOTHING_SPENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """All jobs of a sweep, by key; those that left its plan and have run are among them."""

    jobs: Mapping[str, JobStanding]
    left: LeftHours
    """Of those that left the plan."""

    @property
    def spent(self) -> Amount:
        return add_amounts(each.spent for each in self.jobs.values())

    @property
    def in_flight(self) -> Amount:
        return add_amounts(each.in_flight for each in self.jobs.values())


def add_amounts(amounts: Iterable[Amount]) -> Amount:
    """Their sum."""
    total = NOTHING_SPENT
    for each in amounts:
        if each is not NOTHING_SPENT:
            total = total + each
    return total


# Why: docs/decisions.md, D230
def measure_standing(snapshot: SweepSnapshot, tariff: Tariff, now: float) -> Standing:
    """The standing of every job, from what the snapshot shows. `now`: Unix seconds.

    A job in flight counts at what it may still take, and not only at its estimate: see `charge_job`.
    """
    evidence, gone = load_job_evidence(snapshot), load_left_jobs(snapshot)
    meters = {
        **{key: JobMeter(snapshot, found, tariff, now) for key, found in evidence.items()},
        **{key: JobMeter(snapshot, found, tariff, now, in_plan=False) for key, found in gone.items()},
    }
    overruns = find_overruns([meters[key] for key in evidence])
    return Standing(
        jobs={key: meter.build_standing(overruns) for key, meter in meters.items()}, left=sum_left_hours(gone)
    )


class JobMeter:
    """What one job has spent, read from its evidence."""

    def __init__(
        self, snapshot: SweepSnapshot, evidence: JobEvidence, tariff: Tariff, now: float, *, in_plan: bool = True
    ) -> None:
        self.evidence = evidence
        self.job = job = evidence.job
        self.tariff = tariff
        self.in_plan = in_plan
        self.seen = (snapshot.observed if in_plan else snapshot.cluster.observations).get(job.key)
        records = snapshot.accounting_records.get(job.key, ())
        self.kept, self.wasted = self._measure_ended(evidence.outcomes, records)
        self.kept_hours = 0.0
        """Wall-clock hours of the kept work."""
        for execution in compute_execution_usage(evidence.outcomes, records, gpus=job.resources.gpus):
            self.kept_hours += execution.used.seconds / 3600
        limit = job.resources.time_minutes / 60
        if doubtful := sum(min(limit, measure_doubtful_hours(each, now)) for each in evidence.outcomes):
            self.wasted = self.wasted + tariff.measure_wall_hour(job).multiply(doubtful)
        self.running_hours = find_running_hours(evidence.outcomes, now) if self.is_in_flight else 0.0

    def _measure_ended(
        self, outcomes: Sequence[AttemptRecord], records: Sequence[AccountingRecord]
    ) -> tuple[Amount, Amount]:
        kept = lost = NOTHING_SPENT
        job = self.job
        for execution in compute_execution_usage(outcomes, records, gpus=job.resources.gpus):
            gpu_type = execution.gpu_type or job.resources.gpu_type
            kinds = execution.gpu_kinds or list_requested_kinds(job.resources.options)
            kept = kept + self._measure(execution.used, gpu_type, kinds)
            lost = lost + self._measure(execution.wasted, gpu_type, kinds)
        return kept, lost

    def _measure(self, usage: Usage, gpu_type: str, kinds: str) -> Amount:
        return self.tariff.measure_usage(self.job, usage, gpu_type, kinds) if usage.seconds else NOTHING_SPENT

    @property
    def is_in_flight(self) -> bool:
        """Whether a cluster has the job, or may have it."""
        if self.evidence.done:
            return False
        alive = self.seen is not None and self.seen.state is not ClusterState.ENDED
        return alive or (self.in_plan and self.evidence.state in IN_FLIGHT)

    def build_standing(self, overruns: Mapping[str, float]) -> JobStanding:
        """`overruns`: as `find_overruns` has them."""
        job, done = self.job, self.evidence.done
        charge = NOTHING_SPENT if done else self._charge(overruns.get(job.phase, MOST_OVERRUN))
        estimate = self.tariff.measure_estimate(job)
        return JobStanding(
            job=job,
            state=self.evidence.state,
            in_plan=self.in_plan,
            spent=self.kept + self.wasted,
            wasted=self.wasted,
            in_flight=charge if self.is_in_flight else NOTHING_SPENT,
            running=self.tariff.measure_wall_hour(job).multiply(self.running_hours)
            if self.running_hours
            else NOTHING_SPENT,
            ahead=charge if self.in_plan and not (done or self.is_in_flight) else NOTHING_SPENT,
            expected=NOTHING_SPENT
            if done or not (self.in_plan or self.is_in_flight)
            else estimate.merge(self.kept, lambda whole, kept: max(0.0, whole - kept)),
            remark=self.evidence.costs.remark,
            gpu_kinds=self.evidence.costs.gpu_kinds,
        )

    def _charge(self, overrun: float) -> Amount:
        """What the job may still take: what its time limits allow, restarts that are planned included, but no more than
        `overrun` times its estimate; and what its attempt has used already if that is more. A job that has used up all
        of that counts one more time limit."""
        job, rate = self.job, self.tariff.measure_wall_hour(self.job)
        limit = rate.multiply(job.resources.time_minutes / 60)
        most = limit.multiply(1 + job.resources.restarts)
        estimate = self.tariff.measure_estimate(job)
        whole = estimate.merge(most, lambda planned, allowed: max(planned, min(planned * overrun, allowed)))
        remaining = whole.merge(self.kept, lambda total, kept: total - kept)
        remaining = remaining.merge(limit, lambda rest, once: rest if rest > 0 else once)
        return remaining.merge(rate.multiply(self.running_hours), max)


def measure_doubtful_hours(outcome: AttemptRecord, now: float) -> float:
    """Wall-clock hours that an attempt under a cluster may have gone on behind its last sign of life: it left no exit
    record, and the accounting has no row of it yet."""
    if outcome.recorded or outcome.end is None or not outcome.began or outcome.accounting_record is not None:
        return 0.0
    return max(0.0, now - outcome.end.ended_at) / 3600 if outcome.start.job_id else 0.0


def find_running_hours(outcomes: Sequence[AttemptRecord], now: float) -> float:
    """Of the attempt that lives."""
    last = outcomes[-1] if outcomes else None
    return max(0.0, now - last.start.started_at) / 3600 if last is not None and last.end is None else 0.0


def find_overruns(meters: Iterable[JobMeter]) -> dict[str, float]:
    """By phase, how often its estimate a finished job has taken at most, where that is more than `MOST_OVERRUN`."""
    found: dict[str, float] = {}
    for meter in meters:
        hours = find_wall_hours(meter.job)
        if meter.evidence.done and hours:
            found[meter.job.phase] = max(found.get(meter.job.phase, MOST_OVERRUN), meter.kept_hours / hours)
    return found
