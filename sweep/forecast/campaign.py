"""What a forecast knows of a campaign: its jobs as they stand now, and the site that they meet. Times are seconds.

A campaign is plain numbers, so that one draw after another can be made of it quickly, and so that a question "what if"
is a campaign with one number changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

Item = TypeVar("Item")
NO_LIMIT = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A quantity that is not known exactly: lognormal, with this median, and this standard deviation of its
    logarithm. A sigma of 0 is a number without doubt."""

    median: float
    sigma: float = 0.0


NOTHING = Spread(median=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobShape:
    """What jobs have in common that Slurm treats alike: resources, limits, chances."""

    name: str
    """For people, such as `fine-tune of 1.4b`. Shapes of one name share what is not known of their speed."""
    gpus: int
    """For the GPUs in use; what it may hold is a matter of `takes`."""
    limit_s: float = NO_LIMIT
    """Wall-clock limit of an attempt."""
    startup: Spread = NOTHING
    """What an attempt takes beside its steps."""
    wait: Spread = NOTHING
    """From the moment when nothing of this sweep holds a job back to its start: the queue of the site."""
    lost_s: float = 0.0
    """Of steps that an attempt which ends early has to repeat, on average: half of the time between checkpoints."""
    fail: float = 0.0
    """Chance that an attempt fails and is sent again at the next tick."""
    preempted_per_hour: float = 0.0
    """How often a running hour is ended by preemption or a lost node; the job goes back into the queue by itself."""
    submit_limits: tuple[int, ...] = ()
    """Places in `Campaign.submit_limits` of those under which a job counts from submission to its end."""
    takes: tuple[tuple[int, float], ...] = ()
    """While it runs: places in `Campaign.pools`, and how much of each. More than there is counts as all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """At most `most` jobs in the queue."""

    name: str
    most: int
    used: int = 0
    """By jobs of others than this sweep, now and for the time that is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What running jobs share: GPUs, cores, or places of a limit on running jobs."""

    name: str
    most: float
    holds_back: bool = False
    """Whether a job that has to wait for it holds back those behind it, as free nodes do for the first in the queue.
    Limits of users and accounts do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignJob:
    """One job that is to run, or runs."""

    key: str
    shape: int
    """Place in `Campaign.shapes`."""
    steps: Spread
    """Seconds of steps that are left of it."""
    parents: tuple[int, ...] = ()
    """Places in `Campaign.jobs` of those that are not done; each is smaller than the job's own."""
    running_s: float | None = None
    """How long its present attempt has run; None: it does not run."""
    queued: bool = False
    """Whether the cluster has it already."""
    phase: str = ""
    cells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is left of a sweep, and the site. Jobs stand in the order in which they are sent, parents first."""

    jobs: Sequence[CampaignJob]
    shapes: Sequence[JobShape]
    submit_limits: Sequence[QueueLimit] = ()
    pools: Sequence[Pool] = ()
    tick_s: float = 600.0
    """Between two ticks, which send what there is room for. 0: at once, as the runner of one machine does."""
    next_tick_s: float | None = None
    """Until the first of them; None: at any moment of the time between two."""
    requeue_s: float = 0.0
    """What a job that goes back into the queue waits at least, whatever room there is."""
    chained: bool = True
    """Whether jobs are sent with their parents and held back by the cluster (Slurm), or when these are done (local)."""
    doubt: Mapping[str, float] = field(default_factory=dict)
    """By name of a shape: sigma of a factor that all its jobs of one draw share, as where its speed is a guess."""
    drift: float = 0.0
    """Sigma of a factor that all jobs of one draw share: how fast the machines will be."""

    def lift_submit_limit(self, place: int) -> "Campaign":
        """Without one of the limits on submitted jobs."""
        lifted = replace(self.submit_limits[place], most=len(self.jobs) + self.submit_limits[place].used)
        return replace(self, submit_limits=_put(self.submit_limits, place, lifted))

    def lift_pool(self, place: int) -> "Campaign":
        """With as much of one pool as there are jobs to take it."""
        return replace(self, pools=_put(self.pools, place, replace(self.pools[place], most=NO_LIMIT)))

    def lift_ticks(self) -> "Campaign":
        """As if a tick came at once, whenever one has something to do."""
        return replace(self, tick_s=0.0)

    def lift_waits(self) -> "Campaign":
        """As if the site's queue were empty."""
        return replace(self, shapes=[replace(shape, wait=NOTHING) for shape in self.shapes])

    def lift_time_limits(self) -> "Campaign":
        """As if no attempt had an end."""
        return replace(self, shapes=[replace(shape, limit_s=NO_LIMIT) for shape in self.shapes])

    def lift_trouble(self) -> "Campaign":
        """Without failures and preemptions."""
        return replace(self, shapes=[replace(shape, fail=0.0, preempted_per_hour=0.0) for shape in self.shapes])


def _put(items: Sequence[Item], place: int, item: Item) -> list[Item]:
    return [item if number == place else each for number, each in enumerate(items)]
