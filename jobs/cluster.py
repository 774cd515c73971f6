"""What the rest of the project needs of a cluster, be it this machine or Slurm."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from jobs.job import Job


class ClusterState(StrEnum):
    """What a cluster says of a job's newest attempt."""

    QUEUED = "queued"
    RUNNING = "running"
    STUCK = "stuck"
    """Queued behind a parent that ended without success, or held by the cluster itself: it would wait for ever."""
    ENDED = "ended"
    """Told once; what came of it is on disk."""
    UNKNOWN = "unknown"
    """The cluster could not be asked, or contradicts itself: neither dead nor alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One job as the cluster sees it."""

    state: ClusterState
    id: str = ""
    """The cluster's name for the attempt."""
    returncode: int | None = None
    """With ENDED, where the cluster knows it: the exit code of the attempt's supervisor."""
    waits_for_parents: bool = False
    """With QUEUED: the cluster holds it back until other jobs end."""
    message: str = ""
    """With QUEUED: what it waits for; with ENDED: what the supervisor said on stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRequest:
    """One attempt to be run."""

    job: Job
    rank: int = 0
    """Lower starts first among those that could start."""
    after: tuple[str, ...] = ()
    """Keys of parents that are in the queue or run: start only when all of them ended well. Never a finished parent.
    Empty unless the cluster is `chained`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRequest:
    """The cluster took the request."""

    key: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRequest:
    """The cluster did not take it, with nothing lost: a limit, usually. To be asked again later."""

    key: str
    reason: str


class Cluster(Protocol):
    """A place that runs attempts. Jobs are named by key; a cluster translates to its own ids.

    Every attempt is `python -m jobs.attempt ...` (jobs/attempt/__main__.py), so a cluster only starts it, tells of it,
    stops it.
    """

    @property
    def name(self) -> str:
        """`local`, `slurm`: goes into start.json and the ledger."""
        ...

    @property
    def chained(self) -> bool:
        """Whether it can hold jobs back until their parents end, and so takes jobs whose parents are not finished."""
        ...

    def find_infeasible_reason(self, job: Job) -> str | None:
        """Why the job could never run here; None if it could."""
        ...

    def adopt(self, jobs: Sequence[Job]) -> None:
        """Takes charge of attempts that were found alive on this machine by their lock, whoever started them.
        Nothing to do for a cluster with a memory of its own."""
        ...

    def submit(self, requests: Sequence[AttemptRequest]) -> Sequence[AcceptedRequest | RefusedRequest]:
        """Hands the requests over, many in one call so that they may become arrays. One answer for each, in order."""
        ...

    def observe(self) -> Mapping[str, Observation]:
        """Everything that the cluster knows of this sweep's jobs, by key, in one call, whoever submitted it."""
        ...

    def cancel(self, keys: Collection[str]) -> None:
        """Takes queued attempts out and asks running ones to save and stop. Keys that it does not know are no error."""
        ...

    def kill(self, keys: Collection[str]) -> None:
        """Ends running attempts at once; work since the last checkpoint is lost."""
        ...

    def wait(self, seconds: float) -> None:
        """Returns when something may have changed, after `seconds` at most."""
        ...
