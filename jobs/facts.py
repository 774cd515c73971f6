"""Gathers from the store the facts that decide the states of jobs."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jobs.cluster import Observation
from jobs.job import Job
from jobs.ledger import Wishes
from jobs.locks import is_held
from jobs.outcomes import Outcome, read_outcomes
from jobs.processes import boot_id
from jobs.results_check import check_result
from jobs.retries import verdict
from jobs.state import Facts
from jobs.store import RunPaths, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one run's folder shows."""

    run: RunPaths
    result: Mapping[str, Any] | None = None
    """A valid result.json's content."""
    problem: str = ""
    """Why a result.json that is there does not count, or why the folder cannot be read."""
    readable: bool = True
    live: bool = False
    outcomes: tuple[Outcome, ...] = ()
    """Attempts, oldest first; not gathered for a finished job."""

    @property
    def last(self) -> Outcome | None:
        return self.outcomes[-1] if self.outcomes else None

    @property
    def message(self) -> str:
        """One line on why there is no result; empty if there is nothing to say."""
        if self.last is None or self.last.end is None:
            return self.problem
        return self.last.end.message or self.problem


@dataclass(slots=True)
class Gatherer:
    """Reads run folders of one store. A stage's folder is listed once, so that unstarted jobs cost no look-up."""

    store: Store
    _listed: dict[str, frozenset[str]] = field(default_factory=dict)

    def all(self, jobs: Iterable[Job]) -> dict[str, Evidence]:
        """One pass over all jobs, by key."""
        self._listed.clear()
        return {job.key: self._known_or_nothing(job) for job in jobs}

    def one(self, job: Job) -> Evidence:
        """What the job's folder shows now."""
        run = self.store.run(job.stage, job.key)
        try:
            return _evidence(run, job.key)
        except OSError as error:
            return Evidence(run=run, problem=f"{run.root} cannot be read: {error.strerror or error}", readable=False)

    def _known_or_nothing(self, job: Job) -> Evidence:
        if job.stage not in self._listed:
            self._listed[job.stage] = self._keys_of(job)
        if job.key in self._listed[job.stage]:
            return self.one(job)
        return Evidence(run=self.store.run(job.stage, job.key))

    def _keys_of(self, job: Job) -> frozenset[str]:
        folder = self.store.run(job.stage, job.key).root.parent
        try:
            return frozenset(entry.name for entry in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


def facts_of(key: str, evidence: Evidence, wishes: Wishes, observation: Observation | None = None) -> Facts:
    """What a run's folder, the people's wishes and the cluster together say of one job."""
    if evidence.result is not None:
        return Facts(has_result=True)
    resumed_at = wishes.resumed_at.get(key, 0.0)
    return Facts(
        live=evidence.live,
        cluster=observation.state if observation else None,
        unseen=not evidence.readable or _is_unseen(evidence, resumed_at),
        cancelled=key in wishes.cancelled,
        verdict=verdict(evidence.outcomes, counted_from=resumed_at),
    )


def _evidence(run: RunPaths, key: str) -> Evidence:
    check = check_result(run, key)
    if check.content is not None:
        return Evidence(run=run, result=check.content)
    live = is_held(run.lock)
    if not live:  # it may have ended well between the first look and the lock
        check = check_result(run, key)
        if check.content is not None:
            return Evidence(run=run, result=check.content)
    return Evidence(run=run, problem=check.problem, live=live, outcomes=tuple(read_outcomes(run, live=live)))


def _is_unseen(evidence: Evidence, resumed_at: float) -> bool:
    """Whether the last attempt ran on another machine, whose locks this one may not see, and left no exit record."""
    last = evidence.last
    if evidence.live or last is None or last.recorded or last.start.started_at <= resumed_at:
        return False
    return last.start.boot_id != this_boot() and last.start.host != os.uname().nodename


@cache
def this_boot() -> str:
    """This machine's boot id, read once."""
    return boot_id()
