"""What is known of a sweep's jobs at one moment: evidence from the store, wishes from the ledger, states from both."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jobs.cluster import ClusterState, Observation
from jobs.job import Job, index_by_key
from jobs.processes import read_boot_id
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.retries import decide_retry
from jobs.reconcile.state import JobFacts, JobState, JobStatus, compute_job_statuses
from jobs.store.flock import is_held
from jobs.store.ledger import UserRequests, collect_user_requests, read_events
from jobs.store.paths import RunPaths, Store
from jobs.store.results import check_result

# Gathers from the store the facts that decide the states of jobs.

NO_RECORDS: Mapping[str, Sequence[AccountingRecord]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What one run's folder shows."""

    run: RunPaths
    result: Mapping[str, Any] | None = None
    """A valid result.json's content."""
    problem: str = ""
    """Why a result.json that is there does not count, or why the folder cannot be read."""
    readable: bool = True
    live: bool = False
    outcomes: tuple[AttemptRecord, ...] = ()
    """Attempts, and executions that failed before one began, oldest first; not gathered for a finished job."""

    @property
    def last(self) -> AttemptRecord | None:
        return self.outcomes[-1] if self.outcomes else None

    @property
    def message(self) -> str:
        """One line on why there is no result; empty if there is nothing to say."""
        if self.last is None or self.last.end is None:
            return self.problem
        return self.last.end.message or self.problem


@dataclass(slots=True)
class RunReader:
    """Reads run folders of one store. A stage's folder is listed once, so that unstarted jobs cost no look-up."""

    store: Store
    _listed: dict[str, frozenset[str]] = field(default_factory=dict)

    def read_all(
        self, jobs: Iterable[Job], endings: Mapping[str, Sequence[AccountingRecord]] = NO_RECORDS
    ) -> dict[str, RunStatus]:
        """One pass over all jobs, by key; `endings` is what the cluster knows of their executions, by key too."""
        self._listed.clear()
        return {job.key: self._known_or_nothing(job, endings.get(job.key, ())) for job in jobs}

    def read_one(self, job: Job, endings: Sequence[AccountingRecord] = ()) -> RunStatus:
        """What the job's folder shows now, with the cluster's account of its executions."""
        run = self.store.locate_run(job.stage, job.key)
        try:
            return _read_run_status(run, job.key, endings)
        except OSError as error:
            return RunStatus(run=run, problem=f"{run.root} cannot be read: {error.strerror or error}", readable=False)

    def _known_or_nothing(self, job: Job, endings: Sequence[AccountingRecord]) -> RunStatus:
        if job.stage not in self._listed:
            self._listed[job.stage] = self._keys_of(job)
        if endings or job.key in self._listed[job.stage]:
            return self.read_one(job, endings)
        return RunStatus(run=self.store.locate_run(job.stage, job.key))

    def _keys_of(self, job: Job) -> frozenset[str]:
        folder = self.store.locate_run(job.stage, job.key).root.parent
        try:
            return frozenset(entry.name for entry in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()


def collect_facts(
    key: str, evidence: RunStatus, wishes: UserRequests, observation: Observation | None = None, *, restarts: int = 0
) -> JobFacts:
    """What a run's folder, the people's wishes and the cluster together say of one job.

    `restarts`: attempts beyond the first that its plan counts on.
    """
    if evidence.result is not None:
        return JobFacts(has_result=True)
    resumed_at = wishes.resumed_at.get(key, 0.0)
    cluster = observation.state if observation else None
    return JobFacts(
        live=evidence.live,
        cluster=cluster,
        may_run_elsewhere=not evidence.readable or (cluster in SAYS_NOTHING and _is_unseen(evidence, resumed_at)),
        cancelled=key in wishes.cancelled,
        retry_decision=decide_retry(evidence.outcomes, counted_from=resumed_at, restarts=restarts),
    )


SAYS_NOTHING = {None, ClusterState.UNKNOWN}
"""With any other word the cluster vouches for the job's attempts of other machines: alive if it says so, else ended."""


def _read_run_status(run: RunPaths, key: str, endings: Sequence[AccountingRecord]) -> RunStatus:
    check = check_result(run, key)
    if check.content is not None:
        return RunStatus(run=run, result=check.content)
    live = is_held(run.lock)
    if not live:  # it may have ended well between the first look and the lock
        check = check_result(run, key)
        if check.content is not None:
            return RunStatus(run=run, result=check.content)
    outcomes = tuple(read_attempts(run, live=live, endings=endings))
    return RunStatus(run=run, problem=check.problem, live=live, outcomes=outcomes)


def _is_unseen(evidence: RunStatus, resumed_at: float) -> bool:
    """Whether the last attempt ran on another machine, whose locks this one may not see, and nobody noted its end."""
    last = next((outcome for outcome in reversed(evidence.outcomes) if outcome.began), None)
    if evidence.live or last is None or last.recorded or last.accounting_record or last.start.started_at <= resumed_at:
        return False
    return last.start.boot_id != read_cached_boot_id() and last.start.host != os.uname().nodename


@cache
def read_cached_boot_id() -> str:
    """This machine's boot id, read once."""
    return read_boot_id()


class SweepSnapshot:
    """Jobs with their evidence and status. `jobs`: parents before children."""

    def __init__(self, jobs: Sequence[Job], store: Store, ledger: Path) -> None:
        self.jobs = jobs
        self.store = store
        self.by_key = index_by_key(jobs)
        self.runs: dict[str, RunStatus] = {}
        self.statuses: dict[str, JobStatus] = {}
        self.endings: Mapping[str, Sequence[AccountingRecord]] = NO_RECORDS
        """What the cluster knows of executions that ended, by key."""
        self.observed: dict[str, Observation] = {}
        """What the cluster last said of each key."""
        self.remarks: tuple[str, ...] = ()
        """What the cluster could not tell, one line each, for whoever shows the picture."""
        self.user_requests = UserRequests()
        self._reader = RunReader(store)
        self._ledger = ledger
        self._ledger_stamp: object = None
        self._facts: dict[str, JobFacts] = {}

    def reload(
        self, observed: Mapping[str, Observation], endings: Mapping[str, Sequence[AccountingRecord]] = NO_RECORDS
    ) -> None:
        """Reads all facts anew; `observed` and `endings` are what the cluster says of what lives and what ended."""
        self.endings = endings
        self.runs = self._reader.read_all(self.jobs, endings)
        self.reload_user_requests(but_not_of="")
        self.update(self.by_key, observed)

    def reload_runs(self, keys: Iterable[str]) -> None:
        """Reads some run folders anew; `judge` them afterwards."""
        for key in keys:
            self.runs[key] = self._reader.read_one(self.by_key[key], self.endings.get(key, ()))

    def update(
        self,
        keys: Iterable[str],
        observed: Mapping[str, Observation],
        endings: Mapping[str, Sequence[AccountingRecord]] | None = None,
    ) -> None:
        """Brings the states up to date after something about `keys` has changed.

        With `endings`, which then stand for all that is known, the folders of those among `keys` are read anew about
        which they say something else than before.
        """
        keys = list(keys)
        if endings is not None:
            before, self.endings = self.endings, endings
            self.reload_runs(key for key in keys if list(before.get(key, ())) != list(endings.get(key, ())))
        for key in keys:
            self.observed.pop(key, None)
            if key in observed:
                self.observed[key] = observed[key]
            self._facts[key] = collect_facts(
                key,
                self.runs[key],
                self.user_requests,
                observed.get(key),
                restarts=self.by_key[key].resources.restarts,
            )
        self.statuses = compute_job_statuses(self.jobs, self._facts)

    def reload_user_requests(self, *, but_not_of: str) -> bool:
        """Reads cancellations and resumptions; False if no file of the ledger but the writer's own has grown."""
        stamp = _sizes(self._ledger, but_not_of)
        if stamp == self._ledger_stamp:
            return False
        self._ledger_stamp = stamp
        self.user_requests = collect_user_requests(read_events(self._ledger))
        return True

    @property
    def live(self) -> list[Job]:
        """Jobs whose lock a process of this machine holds."""
        return [job for job in self.jobs if self.runs[job.key].live]

    def select_in_state(self, states: Collection[JobState]) -> list[Job]:
        """Jobs in one of these states, in the manifest's order."""
        return [job for job in self.jobs if self.statuses[job.key].state in states]

    def find_damaged_parents(self) -> dict[str, str]:
        """Finished parents whose checkpoint a child could not read, and which have not run since; with the child."""
        found = {}
        for key, evidence in self.runs.items():
            end = evidence.last.end if evidence.last else None
            if (
                end is None
                or not (end.failure and POLICIES[end.failure].reruns_parent)
                or self.statuses[key].state is JobState.FAILED
            ):
                continue
            parents = self.by_key[key].parents
            parent = end.damaged_key or next(iter(parents), "")
            if parent in parents and self._finished_before(parent, end.ended_at):
                found[parent] = key
        return found

    def _finished_before(self, key: str, moment: float) -> bool:
        try:
            return self.runs[key].run.result.stat().st_mtime < moment
        except FileNotFoundError:
            return False


def _sizes(folder: Path, without: str) -> list[tuple[str, int]]:
    files = sorted(folder.glob("*.jsonl")) if folder.exists() else []
    return [(path.name, path.stat().st_size) for path in files if path.stem != without]
