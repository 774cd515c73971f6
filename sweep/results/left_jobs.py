"""Jobs that a sweep has run and that an edit took out of its plan: their hours were spent all the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.job import Job, Resources
from jobs.observation import ClusterState
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.slurm.batches import parse_sweep_name
from jobs.store.flock import is_held
from jobs.store.paths import SAFE_NAME, RunPaths
from jobs.store.results import list_names
from sweep.errors import ManifestError
from sweep.plan.manifest import read_manifest
from sweep.results.evidence import ExecutionHours, JobEvidence, build_job_evidence


# Why: docs/decisions.md, D118
def load_left_jobs(snapshot: SweepSnapshot) -> dict[str, JobEvidence]:
    """Evidence by key of the jobs that this sweep has run, and that are not in its plan (any more).

    Only executions of this sweep count: another sweep of the store may have planned and run the same job.
    """
    keys = snapshot.list_left_keys()
    if not keys:
        return {}
    before = read_previous_jobs(snapshot)
    stages = sorted(name for name in list_names(snapshot.store.runs) if SAFE_NAME.fullmatch(name))
    found = {}
    for key, phase in keys.items():
        runs = [snapshot.store.locate_run(stage, key) for stage in stages]
        run = next((each for each in runs if each.root.exists()), None)
        job = before.get(key) or build_unplanned_job(key, phase, run)
        run = run or snapshot.store.locate_run(job.stage, key)
        rows = [
            row
            for row in snapshot.cluster.accounting_records.get(key, ())
            if parse_sweep_name(row.batch) == snapshot.sweep
        ]
        found[key] = load_one(snapshot, job, run, rows)
    return found


def read_previous_jobs(snapshot: SweepSnapshot) -> Mapping[str, Job]:
    """Jobs of the plan before this one, by key; none where there was none."""
    try:
        return {job.key: job for job in read_manifest(snapshot.store.locate_sweep(snapshot.sweep).previous).jobs}
    except ManifestError:
        return {}


def build_unplanned_job(key: str, phase: str, run: RunPaths | None) -> Job:
    """What is known of a job that no stored plan has."""
    stage = run.root.parent.name if run is not None else phase or "pretrain"
    return Job(
        key=key, stage=stage, version=0, phase=phase or stage, parents=(), config={}, cells=(), resources=Resources()
    )


def load_one(snapshot: SweepSnapshot, job: Job, run: RunPaths, rows: list[AccountingRecord]) -> JobEvidence:
    """The evidence of one such job, of this sweep's executions alone."""
    seen = snapshot.cluster.observations.get(job.key)
    live = is_held(run.lock) or (seen is not None and seen.state is ClusterState.RUNNING)
    own = [
        outcome
        for outcome in read_attempts(run, live=live, endings=rows)
        if is_own_execution(snapshot, job.key, outcome)
    ]
    return build_job_evidence(
        job,
        JobState.READY,
        RunStatus(stage_folder=str(run.root.parent), key=job.key, outcomes=tuple(own)),
        rows,
        snapshot.explain_hours(job.key),
    )


def is_own_execution(snapshot: SweepSnapshot, key: str, outcome: AttemptRecord) -> bool:
    """Whether this sweep started it."""
    if outcome.start.batch:
        return parse_sweep_name(outcome.start.batch) == snapshot.sweep
    return outcome.start.attempt in snapshot.started_here.get(key, ())


@dataclass(frozen=True, slots=True)
class LeftHours:
    """The sum over such jobs."""

    jobs: int
    hours: ExecutionHours
    remark: str
    """Why not all of these hours are Slurm's; empty if they are."""


def sum_left_hours(left: Mapping[str, JobEvidence]) -> LeftHours:
    """Of those that took any time at all."""
    hours, remarks, jobs = ExecutionHours(), [], 0
    for found in left.values():
        hours += found.costs.total
        jobs += found.costs.source is not None
        remarks += [found.costs.remark] if found.costs.remark else []
    return LeftHours(jobs, hours, "; ".join(dict.fromkeys(remarks)))


def describe_left_hours(left: LeftHours) -> str:
    """One line for people; empty if there are none."""
    from jobs.counted import format_counted
    from sweep.text_format import format_hours

    if not left.jobs:
        return ""
    on_gpus = left.hours.gpu_hours > 0
    amount = left.hours.a100_hours if on_gpus else left.hours.cpu_hours
    unit = "A100-hours" if on_gpus else "core-hours"
    if amount is None:
        amount, unit = left.hours.gpu_hours, "GPU-hours, of a GPU type without a factor"
    mark = f"; not all of them are Slurm's: {left.remark}" if left.remark else ""
    return f"{format_counted(left.jobs, 'job')} left the plan after {format_hours(amount)} {unit}{mark}"
