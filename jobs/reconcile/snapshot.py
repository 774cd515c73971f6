"""What is known of a sweep's jobs at one moment: evidence from the store, wishes from the ledger, states from both."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jobs.cluster import ClusterState, Observation
from jobs.job import Job, by_key
from jobs.processes import boot_id
from jobs.reconcile.attempts import Outcome, read_outcomes
from jobs.reconcile.executions import Ending
from jobs.reconcile.retries import verdict
from jobs.reconcile.state import Facts, JobStatus, State, graph_status
from jobs.store.flock import is_held
from jobs.store.ledger import Wishes, read_events, wishes
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass
from jobs.store.results import check_result

# Gathers from the store the facts that decide the states of jobs.

NO_ENDINGS: Mapping[str, Sequence[Ending]] = {}


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
    """Attempts, and executions that failed before one began, oldest first; not gathered for a finished job."""

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

    def all(self, jobs: Iterable[Job], endings: Mapping[str, Sequence[Ending]] = NO_ENDINGS) -> dict[str, Evidence]:
        """One pass over all jobs, by key; `endings` is what the cluster knows of their executions, by key too."""
        self._listed.clear()
        return {job.key: self._known_or_nothing(job, endings.get(job.key, ())) for job in jobs}

    def one(self, job: Job, endings: Sequence[Ending] = ()) -> Evidence:
        """What the job's folder shows now, with the cluster's account of its executions."""
        run = self.store.run(job.stage, job.key)
        try:
            return _evidence(run, job.key, endings)
        except OSError as error:
            return Evidence(run=run, problem=f"{run.root} cannot be read: {error.strerror or error}", readable=False)

    def _known_or_nothing(self, job: Job, endings: Sequence[Ending]) -> Evidence:
        if job.stage not in self._listed:
            self._listed[job.stage] = self._keys_of(job)
        if endings or job.key in self._listed[job.stage]:
            return self.one(job, endings)
        return Evidence(run=self.store.run(job.stage, job.key))

    def _keys_of(self, job: Job) -> frozenset[str]:
        folder = self.store.run(job.stage, job.key).root.parent
        try:
            return frozenset(entry.name for entry in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


def facts_of(
    key: str, evidence: Evidence, wishes: Wishes, observation: Observation | None = None, *, restarts: int = 0
) -> Facts:
    """What a run's folder, the people's wishes and the cluster together say of one job.

    `restarts`: attempts beyond the first that its plan counts on.
    """
    if evidence.result is not None:
        return Facts(has_result=True)
    resumed_at = wishes.resumed_at.get(key, 0.0)
    cluster = observation.state if observation else None
    return Facts(
        live=evidence.live,
        cluster=cluster,
        unseen=not evidence.readable or (cluster in SAYS_NOTHING and _is_unseen(evidence, resumed_at)),
        cancelled=key in wishes.cancelled,
        verdict=verdict(evidence.outcomes, counted_from=resumed_at, restarts=restarts),
    )


SAYS_NOTHING = {None, ClusterState.UNKNOWN}
"""With any other word the cluster vouches for the job's attempts of other machines: alive if it says so, else ended."""


def _evidence(run: RunPaths, key: str, endings: Sequence[Ending]) -> Evidence:
    check = check_result(run, key)
    if check.content is not None:
        return Evidence(run=run, result=check.content)
    live = is_held(run.lock)
    if not live:  # it may have ended well between the first look and the lock
        check = check_result(run, key)
        if check.content is not None:
            return Evidence(run=run, result=check.content)
    outcomes = tuple(read_outcomes(run, live=live, endings=endings))
    return Evidence(run=run, problem=check.problem, live=live, outcomes=outcomes)


def _is_unseen(evidence: Evidence, resumed_at: float) -> bool:
    """Whether the last attempt ran on another machine, whose locks this one may not see, and nobody noted its end."""
    last = next((outcome for outcome in reversed(evidence.outcomes) if outcome.began), None)
    if evidence.live or last is None or last.recorded or last.ending or last.start.started_at <= resumed_at:
        return False
    return last.start.boot_id != this_boot() and last.start.host != os.uname().nodename


@cache
def this_boot() -> str:
    """This machine's boot id, read once."""
    return boot_id()


class Picture:
    """Jobs with their evidence and status. `jobs`: parents before children."""

    def __init__(self, jobs: Sequence[Job], store: Store, ledger: Path) -> None:
        self.jobs = jobs
        self.store = store
        self.by_key = by_key(jobs)
        self.evidence: dict[str, Evidence] = {}
        self.statuses: dict[str, JobStatus] = {}
        self.endings: Mapping[str, Sequence[Ending]] = NO_ENDINGS
        """What the cluster knows of executions that ended, by key."""
        self.observed: dict[str, Observation] = {}
        """What the cluster last said of each key."""
        self.remarks: tuple[str, ...] = ()
        """What the cluster could not tell, one line each, for whoever shows the picture."""
        self.wishes = Wishes()
        self._gatherer = Gatherer(store)
        self._ledger = ledger
        self._ledger_stamp: object = None
        self._facts: dict[str, Facts] = {}

    def look_at_everything(
        self, observed: Mapping[str, Observation], endings: Mapping[str, Sequence[Ending]] = NO_ENDINGS
    ) -> None:
        """Reads all facts anew; `observed` and `endings` are what the cluster says of what lives and what ended."""
        self.endings = endings
        self.evidence = self._gatherer.all(self.jobs, endings)
        self.read_wishes(but_not_of="")
        self.judge(self.by_key, observed)

    def look_at(self, keys: Iterable[str]) -> None:
        """Reads some run folders anew; `judge` them afterwards."""
        for key in keys:
            self.evidence[key] = self._gatherer.one(self.by_key[key], self.endings.get(key, ()))

    def judge(
        self,
        keys: Iterable[str],
        observed: Mapping[str, Observation],
        endings: Mapping[str, Sequence[Ending]] | None = None,
    ) -> None:
        """Brings the states up to date after something about `keys` has changed.

        With `endings`, which then stand for all that is known, the folders of those among `keys` are read anew about
        which they say something else than before.
        """
        keys = list(keys)
        if endings is not None:
            before, self.endings = self.endings, endings
            self.look_at(key for key in keys if list(before.get(key, ())) != list(endings.get(key, ())))
        for key in keys:
            self.observed.pop(key, None)
            if key in observed:
                self.observed[key] = observed[key]
            self._facts[key] = facts_of(
                key,
                self.evidence[key],
                self.wishes,
                observed.get(key),
                restarts=self.by_key[key].resources.restarts,
            )
        self.statuses = graph_status(self.jobs, self._facts)

    def read_wishes(self, *, but_not_of: str) -> bool:
        """Reads cancellations and resumptions; False if no file of the ledger but the writer's own has grown."""
        stamp = _sizes(self._ledger, but_not_of)
        if stamp == self._ledger_stamp:
            return False
        self._ledger_stamp = stamp
        self.wishes = wishes(read_events(self._ledger))
        return True

    @property
    def live(self) -> list[Job]:
        """Jobs whose lock a process of this machine holds."""
        return [job for job in self.jobs if self.evidence[job.key].live]

    def in_state(self, states: Collection[State]) -> list[Job]:
        """Jobs in one of these states, in the manifest's order."""
        return [job for job in self.jobs if self.statuses[job.key].state in states]

    def damaged_parents(self) -> dict[str, str]:
        """Finished parents whose checkpoint a child could not read, and which have not run since; with the child."""
        found = {}
        for key, evidence in self.evidence.items():
            end = evidence.last.end if evidence.last else None
            if end is None or end.failure is not FailureClass.DAMAGED_INPUT or self.statuses[key].state is State.FAILED:
                continue
            parents = self.by_key[key].parents
            parent = end.damaged_key or next(iter(parents), "")
            if parent in parents and self._finished_before(parent, end.ended_at):
                found[parent] = key
        return found

    def _finished_before(self, key: str, moment: float) -> bool:
        try:
            return self.evidence[key].run.result.stat().st_mtime < moment
        except FileNotFoundError:
            return False


def _sizes(folder: Path, without: str) -> list[tuple[str, int]]:
    files = sorted(folder.glob("*.jsonl")) if folder.exists() else []
    return [(path.name, path.stat().st_size) for path in files if path.stem != without]
