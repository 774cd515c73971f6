"""What to do next with a sweep's jobs: a pure function of their states. `jobs.runner` does it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jobs.cluster import ClusterState, Observation
from jobs.job import Job
from jobs.state import STOPPED, JobStatus, State

STARTABLE = {State.READY, State.INTERRUPTED}
ON_THE_WAY = {State.QUEUED, State.RUNNING}


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand the job to the cluster; with `after`, to start when these parents have ended well."""

    key: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the job out of the cluster's queue."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Invalidate:
    """Move a finished parent's result aside: its child found the checkpoint damaged, so both run again."""

    key: str
    child: str


Action = Submit | Withdraw | Invalidate


def decide(
    jobs: Sequence[Job],
    statuses: Mapping[str, JobStatus],
    *,
    wanted: Collection[str],
    observed: Mapping[str, Observation],
    damaged: Mapping[str, str],
    chained: bool,
    room: int | None = None,
) -> list[Action]:
    """Actions in the order in which they are to be done.

    `jobs`: parents before children, the more urgent first where the graph leaves it open. `damaged`: finished parents
    whose checkpoint a child could not read, with that child. `chained`: the cluster holds children back itself, so jobs
    go out with their parents. `room`: how many the cluster's queue still takes; None is no limit.
    """
    actions: list[Action] = [Invalidate(parent, child) for parent, child in damaged.items()]
    actions += [
        withdrawal for job in jobs if (withdrawal := _withdrawal(statuses[job.key], observed.get(job.key), job))
    ]
    sent: set[str] = set()
    for job in jobs:
        if room is not None and len(sent) >= room:
            break
        if job.key not in wanted or job.key in observed or set(job.parents) & damaged.keys():
            continue
        submit = _submission(job, statuses, sent, chained=chained)
        if submit is not None:
            actions.append(submit)
            sent.add(job.key)
    return actions


def _submission(job: Job, statuses: Mapping[str, JobStatus], sent: set[str], *, chained: bool) -> Submit | None:
    state = statuses[job.key].state
    if state in STARTABLE:
        return Submit(job.key)
    if not chained or state is not State.WAITING:
        return None
    unfinished = tuple(parent for parent in job.parents if statuses[parent].state is not State.DONE)
    held = all(parent in sent or statuses[parent].state in ON_THE_WAY for parent in unfinished)
    return Submit(job.key, unfinished) if held else None


def _withdrawal(status: JobStatus, observation: Observation | None, job: Job) -> Withdraw | None:
    if observation is None or observation.state not in {ClusterState.QUEUED, ClusterState.STUCK}:
        return None
    if status.state in STOPPED:
        return Withdraw(job.key, status.state.value)
    if status.state is State.DONE:
        return Withdraw(job.key, "done already")
    if observation.state is ClusterState.STUCK:
        return Withdraw(job.key, "its parent ended without success; it is sent again behind the parent's next attempt")
    return None
