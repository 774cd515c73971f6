"""What to do next with a sweep's jobs: a pure function of their states. The runner or the Slurm round then does it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from jobs.job import Job
from jobs.observation import ClusterState, Observation
from jobs.reconcile.state import STOPPED, JobState, JobStatus

STARTABLE = {JobState.READY, JobState.INTERRUPTED}
QUEUED_OR_RUNNING = {JobState.QUEUED, JobState.RUNNING}
IN_THE_CLUSTER = {ClusterState.QUEUED, ClusterState.RUNNING}
"""Only behind these can a job be queued: by the disk a job may live that the cluster cannot show at the moment."""
OVER_BUDGET = "the budget has no room for it any more"
PARENT_LEFT = "its parent ended without success; it is sent again behind the parent's next attempt"


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


@dataclass(frozen=True, slots=True)
class Restore:
    """Bring back what the job reads and `sweep gc` set aside, or have its parent run again where that is gone."""

    key: str


Action = Submit | Withdraw | Invalidate | Restore


@dataclass(slots=True)
class AmountRoom:
    """What jobs that are sent may still take, by budget."""

    left: dict[str, float]
    charges: Mapping[str, Mapping[str, float]]
    """By key, what a job counts under each budget when it is sent; nothing where it is not here."""
    withdrawn: Collection[str] = ()
    """Keys of queued jobs for which there is no room any more."""
    held: dict[str, list[str]] = field(default_factory=dict)
    """Keys of jobs that found no room, by budget."""

    def copy(self) -> "AmountRoom":
        """As it was before anything was reserved."""
        return AmountRoom(dict(self.left), self.charges, self.withdrawn)

    def find_full(self, key: str) -> list[str]:
        """The budgets that have no room for a job."""
        return [name for name, amount in self.charges.get(key, {}).items() if amount > self.left[name]]

    def take(self, key: str) -> None:
        """Counts the job in."""
        for name, amount in self.charges.get(key, {}).items():
            self.left[name] -= amount


@dataclass(slots=True)
class QueueCapacity:
    """How many jobs the cluster's queue still takes, by limit. A name without a number has no limit."""

    left: dict[str, int] = field(default_factory=dict)
    limit_names: Callable[[Job], Sequence[str]] = lambda _job: ()
    """The limits under which a job counts."""
    full: set[str] = field(default_factory=set)
    """Limits that had no room for some job."""
    amounts: AmountRoom | None = None
    """What jobs may still take; None: as much as they like."""

    def reserve(self, job: Job) -> bool:
        """Counts the job in if every one of its limits and budgets has room."""
        limits = [name for name in self.limit_names(job) if name in self.left]
        full = {name for name in limits if self.left[name] < 1}
        self.full |= full
        if full:
            return False
        if self.amounts is not None:
            if passed := self.amounts.find_full(job.key):
                for name in passed:
                    self.amounts.held.setdefault(name, []).append(job.key)
                return False
            self.amounts.take(job.key)
        for name in limits:
            self.left[name] -= 1
        return True


def decide(
    jobs: Sequence[Job],
    statuses: Mapping[str, JobStatus],
    *,
    wanted: Collection[str],
    observed: Mapping[str, Observation],
    damaged: Mapping[str, str],
    chained: bool,
    capacity: QueueCapacity | None = None,
    set_aside: Collection[str] = (),
) -> list[Action]:
    """Actions in the order in which they are to be done.

    `jobs`: parents before children, the more urgent first where the graph leaves it open. `damaged`: finished parents
    whose checkpoint a child could not read, with that child. `chained`: the cluster holds children back itself, so jobs
    go out with their parents. `capacity`: what the cluster's queue still takes; None is no limit. `set_aside`: jobs
    that read files which are not in their place now; they go out in the next round of decisions.
    """
    capacity = capacity or QueueCapacity()
    actions: list[Action] = [Invalidate(parent, child) for parent, child in damaged.items()]
    over = capacity.amounts.withdrawn if capacity.amounts is not None else ()
    withdrawn = _find_withdrawals(jobs, statuses, observed, over)
    actions += withdrawn.values()
    held = {
        key
        for key, seen in observed.items()
        if seen.state in IN_THE_CLUSTER and statuses[key].state in QUEUED_OR_RUNNING
    }
    held -= withdrawn.keys()
    for job in jobs:
        if job.key not in wanted or job.key in observed or set(job.parents) & damaged.keys():
            continue
        submit = _find_submission(job, statuses, held, chained=chained)
        if submit is None or not capacity.reserve(job):
            continue
        if job.key in set_aside:
            actions.append(Restore(job.key))
        else:
            actions.append(submit)
            held.add(job.key)
    return actions


def _find_submission(job: Job, statuses: Mapping[str, JobStatus], held: set[str], *, chained: bool) -> Submit | None:
    """`held`: jobs that the cluster has, or is about to be given."""
    state = statuses[job.key].state
    if state in STARTABLE:
        return Submit(job.key)
    if not chained or state is not JobState.WAITING:
        return None
    unfinished = tuple(parent for parent in job.parents if statuses[parent].state is not JobState.DONE)
    return Submit(job.key, unfinished) if held.issuperset(unfinished) else None


def _find_withdrawals(
    jobs: Sequence[Job],
    statuses: Mapping[str, JobStatus],
    observed: Mapping[str, Observation],
    over: Collection[str] = (),
) -> dict[str, Withdraw]:
    """What has to leave the queue; below a job that leaves it, everything that is queued. `over`: keys of jobs for
    which a budget has no room any more."""
    found: dict[str, Withdraw] = {}
    for job in jobs:
        withdrawal = _find_withdrawal(statuses[job.key], observed.get(job.key), job)
        queued = job.key in observed and observed[job.key].state is ClusterState.QUEUED
        if withdrawal is None and queued and job.key in over:
            withdrawal = Withdraw(job.key, OVER_BUDGET)
        left = [parent for parent in job.parents if parent in found and statuses[parent].state is not JobState.DONE]
        if withdrawal is None and queued and left:
            withdrawal = Withdraw(job.key, PARENT_LEFT)
        if withdrawal is not None:
            found[job.key] = withdrawal
    return found


def _find_withdrawal(status: JobStatus, observation: Observation | None, job: Job) -> Withdraw | None:
    if observation is None or observation.state not in {ClusterState.QUEUED, ClusterState.STUCK}:
        return None
    if status.state in STOPPED:
        return Withdraw(job.key, status.state.value)
    if status.state is JobState.DONE:
        return Withdraw(job.key, "done already")
    if observation.state is ClusterState.STUCK:
        return Withdraw(job.key, observation.describe_wait() or PARENT_LEFT)
    return None
