"""The state of a job as a pure function of facts. Truth is what is on disk; the cluster's answer fills the gaps."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from jobs.cluster import ClusterState
from jobs.job import Job
from jobs.reconcile.retries import Verdict


class State(StrEnum):
    """In the order in which `sweep status` lists them."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    """Handed to a cluster; waits for a slot."""
    READY = "ready"
    """Could start now; nobody has submitted it."""
    WAITING = "waiting"
    """A parent is unfinished."""
    INTERRUPTED = "interrupted"
    """Was started, is not live, goes on from its checkpoint at the next submission."""
    FAILED = "failed"
    BLOCKED = "blocked"
    """An ancestor failed or was cancelled."""
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """It cannot be told whether it lives: not started again until that is known."""


STOPPED = {State.FAILED, State.BLOCKED, State.CANCELLED}
"""A job in one of these blocks its children, and stays so until a person acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that decides a job's state, apart from its parents."""

    has_result: bool = False
    """A valid result.json."""
    live: bool = False
    """A process of the run holds its lock."""
    cluster: ClusterState | None = None
    """The cluster's word; None: it knows nothing of the job."""
    unseen: bool = False
    """An attempt of another machine left no exit record, or the run's files cannot be read."""
    cancelled: bool = False
    verdict: Verdict = Verdict.NEW


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's state; `cause` is the key of the ancestor that blocks it."""

    state: State
    cause: str = ""


def job_state(facts: Facts, parents: Collection[State] = ()) -> State:  # noqa: PLR0911 - a table, read downwards
    """The one place where a state is decided."""
    if facts.has_result:
        return State.DONE  # a finished file outlives everybody's memory of the job
    if facts.live or facts.cluster is ClusterState.RUNNING:
        return State.RUNNING
    if facts.unseen or facts.cluster is ClusterState.UNKNOWN:
        return State.UNKNOWN
    if facts.cancelled:
        return State.CANCELLED
    if facts.verdict is Verdict.STOP:
        return State.FAILED
    if any(parent in STOPPED for parent in parents):
        return State.BLOCKED  # also when it is queued: it would wait for ever
    if facts.cluster is ClusterState.QUEUED:
        return State.QUEUED
    if any(parent is not State.DONE for parent in parents):
        return State.WAITING
    return State.INTERRUPTED if facts.verdict is Verdict.GO_ON else State.READY


def graph_status(jobs: Iterable[Job], facts: Mapping[str, Facts]) -> dict[str, JobStatus]:
    """The status of every job; `jobs` with parents before children."""
    statuses: dict[str, JobStatus] = {}
    for job in jobs:
        parents = [(parent, statuses[parent]) for parent in job.parents]
        state = job_state(facts[job.key], [status.state for _, status in parents])
        cause = ""
        if state is State.BLOCKED:
            blocker, status = next(pair for pair in parents if pair[1].state in STOPPED)
            cause = status.cause or blocker
        statuses[job.key] = JobStatus(state, cause)
    return statuses
