"""The state of a job as a pure function of facts. What is on disk decides; the cluster's answer fills the gaps."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from jobs.job import Job
from jobs.observation import ClusterState
from jobs.reconcile.retries import RetryDecision


class JobState(StrEnum):
    """In the order in which `sweep status` lists them."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and a report asks for it a hundred thousand times

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    """The cluster has it, and it waits for a slot."""
    READY = "ready"
    """It could start now, and nobody has submitted it."""
    WAITING = "waiting"
    """A parent is unfinished."""
    INTERRUPTED = "interrupted"
    """It was started and does not live; it goes on from its checkpoint at the next submission."""
    FAILED = "failed"
    BLOCKED = "blocked"
    """An ancestor failed or was cancelled."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """It is not known whether it lives, or whether a person cancelled it. It is not started until that is known."""


STOPPED = {JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED}
"""Jobs in these states block their children and stay as they are until a person acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """All that decides a job's state, apart from its parents."""

    has_result: bool = False
    """A valid result.json."""
    live: bool = False
    """A process of the run holds its lock."""
    cluster: ClusterState | None = None
    """What the cluster says; None if it does not know the job."""
    may_run_elsewhere: bool = False
    """An attempt on another machine has no exit record, or the run's files cannot be read."""
    cancelled: bool = False
    """`sweep cancel` asks for it."""
    ended_by_person: bool = False
    """A person took it out with the cluster's own means (scancel)."""
    in_doubt: bool = False
    """It has ended, and nobody can say whether a person cancelled it."""
    retry_decision: RetryDecision = RetryDecision.NEW


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's state; `cause` is the key of the ancestor that blocks it."""

    state: JobState
    cause: str = ""
    cancel_pending: bool = False
    """A person asked that it is cancelled, and the cluster still has it or a process of it lives."""


def compute_job_state(facts: JobFacts, parents: Collection[JobState] = ()) -> JobState:  # noqa: PLR0911 - a table, read downwards
    """The one place where a state is decided."""
    if facts.has_result:
        return JobState.DONE  # also when the cluster has forgotten the job, or shows it as failed
    if facts.live or facts.cluster is ClusterState.RUNNING:
        return JobState.RUNNING
    if facts.may_run_elsewhere or facts.cluster is ClusterState.UNKNOWN:
        return JobState.UNKNOWN
    if facts.cancelled:
        return JobState.CANCELLED
    if facts.in_doubt:
        return JobState.UNKNOWN
    if facts.retry_decision is RetryDecision.STOP:
        return JobState.CANCELLED if facts.ended_by_person else JobState.FAILED
    if any(parent in STOPPED for parent in parents):
        return JobState.BLOCKED  # even if it is queued, for it would wait for ever
    if facts.cluster is ClusterState.QUEUED:
        return JobState.QUEUED
    if any(parent is not JobState.DONE for parent in parents):
        return JobState.WAITING
    return JobState.INTERRUPTED if facts.retry_decision is RetryDecision.GO_ON else JobState.READY


def is_cancel_pending(facts: JobFacts) -> bool:
    """Whether a cancellation was asked for and is not carried out yet, as far as can be seen."""
    in_the_cluster = facts.cluster not in {None, ClusterState.ENDED}
    return facts.cancelled and not facts.has_result and (facts.live or facts.may_run_elsewhere or in_the_cluster)


def compute_job_statuses(jobs: Iterable[Job], facts: Mapping[str, JobFacts]) -> dict[str, JobStatus]:
    """The status of every job; `jobs` with parents before children."""
    statuses: dict[str, JobStatus] = {}
    shared = {state: JobStatus(state) for state in JobState}
    for job in jobs:
        known = facts[job.key]
        # nearly all jobs of a large sweep: they are done whatever their parents are
        parents = [] if known.has_result else [statuses[parent].state for parent in job.parents]
        state = compute_job_state(known, parents)
        if state is JobState.BLOCKED:
            blocker = next(parent for parent in job.parents if statuses[parent].state in STOPPED)
            cause = statuses[blocker].cause or blocker
            statuses[job.key] = JobStatus(state, cause, is_cancel_pending(known))
        elif known.cancelled and is_cancel_pending(known):
            statuses[job.key] = JobStatus(state, cancel_pending=True)
        else:
            statuses[job.key] = shared[state]
    return statuses
