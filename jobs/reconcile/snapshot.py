"""What is known of a sweep's jobs at one moment: their run folders, the user's requests, the cluster's report, and the
states that follow from these."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from jobs.errors import add_denial
from jobs.job import Job, index_by_key
from jobs.observation import ClusterState, Observation
from jobs.processes import read_boot_id
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.reconcile.failures import POLICIES, can_conceal_cancellation
from jobs.reconcile.retries import decide_retry, is_ended_by_person, is_forgiven
from jobs.reconcile.state import JobFacts, JobState, JobStatus, compute_job_statuses
from jobs.set_aside import has_set_aside_input, restore_inputs
from jobs.store.checked_results import CheckedResults
from jobs.store.flock import is_held
from jobs.store.ledger import (
    Event,
    EventKind,
    Resumption,
    UserRequests,
    collect_user_requests,
    list_ledger_files,
    read_events,
)
from jobs.store.paths import RunPaths, Store, check_safe_name
from jobs.store.results import ResultCheck, check_result_in, identify_result, list_names, read_finished_at


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport:
    """What a cluster says of a sweep's jobs at one moment; both mappings by key."""

    observations: Mapping[str, Observation] = field(default_factory=dict)
    accounting_records: Mapping[str, Sequence[AccountingRecord]] = field(default_factory=dict)
    """Executions that ended, oldest first."""
    remarks: tuple[str, ...] = ()
    """What the cluster could not answer, one line each."""
    unaccounted: Mapping[str, str] = field(default_factory=dict)
    """Jobs of whose executions the accounting does not show all, and why; by key."""
    accounting_problem: str = ""
    """Why the accounting shows nothing of any job; empty if it answers."""
    sent_phases: Mapping[str, str] = field(default_factory=dict)
    """Phase of every job that this sweep ever handed to the cluster, by key, whether or not its plan still has it."""
    answer_age_seconds: float = 0.0
    """How long ago the cluster said so, where a kept answer is shown; 0: it was asked just now, or never."""
    batches: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Keys of the jobs that each batch was to hand to the cluster, by the batch's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursDoubt:
    """Why the hours of a job's executions on a cluster may not be those of its accounting."""

    unseen: str = ""
    """Why there may be executions that nothing here shows; empty if there are none."""
    missing: str = ""
    """Why the accounting shows nothing at all; empty if it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What one run's folder shows."""

    stage_folder: str
    key: str
    done: bool = False
    """There is a valid result.json. Its content is not kept: of 20,000 jobs it would take 200 MiB."""
    finished_at: float = 0.0
    """Unix seconds, as the result says; 0 without one."""
    problem: str = ""
    """Why a result.json that is there does not count, or why the folder cannot be read."""
    readable: bool = True
    live: bool = False
    """A process of this machine holds the run's lock."""
    outcomes: tuple[AttemptRecord, ...] = ()
    """Attempts, and executions that failed before one began, oldest first; not read for a finished job."""

    @property
    def run(self) -> RunPaths:
        return RunPaths(Path(self.stage_folder, check_safe_name(self.key)))

    def read_result(self) -> Mapping[str, Any] | None:
        """Content of a valid result.json as it is now; None if the job was not done."""
        return check_result_in(f"{self.stage_folder}/{self.key}", self.key).content if self.done else None

    @property
    def last(self) -> AttemptRecord | None:
        return self.outcomes[-1] if self.outcomes else None

    @property
    def message(self) -> str:
        """One line on why there is no result; empty if there is nothing to say."""
        if self.last is None or self.last.end is None:
            return self.problem
        return self.last.end.message or self.problem


UNSENT = {JobState.READY, JobState.INTERRUPTED, JobState.WAITING}
"""Jobs in these states may be handed to a cluster."""


class SweepSnapshot:
    """All jobs with evidence and status. Empty before the first `reload`; `jobs` has parents before children.

    Whoever acts on the sweep keeps its snapshot up to date with `update` and `reload_user_requests`.
    """

    def __init__(self, jobs: Sequence[Job], store: Store, sweep: str, *, trusts_checked: bool = False) -> None:
        """`trusts_checked`: for reports, which need not read what an earlier one has read (`CheckedResults`)."""
        self.jobs = jobs
        self.store = store
        self.sweep = sweep
        self.by_key = index_by_key(jobs)
        self.runs: dict[str, RunStatus] = {}
        self.statuses: dict[str, JobStatus] = {}
        self.observed: dict[str, Observation] = {}
        """What the cluster last said of each job of the plan."""
        self.accounting_records: Mapping[str, Sequence[AccountingRecord]] = {}
        self.remarks: tuple[str, ...] = ()
        self.cluster = ClusterReport()
        """What `reload` was given, before the users' requests were applied to it."""
        self.started_here: Mapping[str, frozenset[str]] = {}
        """Attempts that this sweep's runner started on some machine, by key."""
        self.user_requests = UserRequests()
        checked = CheckedResults(store.locate_sweep(sweep).checked_results) if trusts_checked else None
        self._reader = RunReader(store, checked)
        self._ledger = store.locate_sweep(sweep).ledger
        self._ledger_sizes: object = None
        self._facts: dict[str, JobFacts] = {}

    def reload(self, cluster: ClusterReport | None = None) -> None:
        """Reads everything again; what an earlier report said is dropped."""
        cluster = cluster or ClusterReport()
        self.cluster = cluster
        self.accounting_records = cluster.accounting_records
        self.remarks = cluster.remarks
        self.runs = self._reader.read_all(self.jobs, self.accounting_records)
        self._read_user_requests(but_not_of="")
        self.observed = {
            key: self._apply_word(key, seen) for key, seen in cluster.observations.items() if key in self.by_key
        }
        self._update_statuses(self.by_key)

    def _apply_word(self, key: str, seen: Observation) -> Observation:
        """Where the cluster cannot say, a person's later word counts: `sweep resume` says that the job is gone."""
        if not seen.vouched_from:
            return seen
        resumption = self.user_requests.get_resumption(key)
        if seen.batch in resumption.batches or resumption.before > seen.vouched_from:
            return Observation(state=ClusterState.ENDED, id=seen.id, message="gone, by `sweep resume`")
        return seen

    def update(self, observed: Mapping[str, Observation | None], *, reread: Collection[str] = ()) -> None:
        """Takes in what the cluster now says of some jobs (None: nothing), and reads the folders of `reread` again."""
        if not observed and not reread:
            return
        for key, seen in observed.items():
            if seen is None:
                self.observed.pop(key, None)
            else:
                self.observed[key] = seen
        for key in reread:
            self.runs[key] = self._reader.read_one(self.by_key[key], self.accounting_records.get(key, ()))
        self._update_statuses({*observed, *reread})

    def reload_user_requests(self, *, but_not_of: str) -> bool:
        """Takes in cancellations and resumptions; False if no file of the ledger but that writer's has grown."""
        if not self._read_user_requests(but_not_of):
            return False
        self._update_statuses(self.by_key)
        return True

    def _read_user_requests(self, but_not_of: str) -> bool:
        files = list_ledger_files(self._ledger)
        sizes = [(path.name, path.stat().st_size) for path in files if path.stem != but_not_of]
        if sizes == self._ledger_sizes:
            return False
        self._ledger_sizes = sizes
        events = read_events(self._ledger)
        self.user_requests = collect_user_requests(events)
        started: dict[str, set[str]] = {}
        for event in events:
            if event.event is EventKind.STARTED:
                started.setdefault(event.key, set()).add(event.attempt)
        self.started_here = {key: frozenset(attempts) for key, attempts in started.items()}
        return True

    def build_resumption(self, key: str, by: str) -> Event:
        """What gives a job a new budget: it names all attempts and batches of the job that can be seen now."""
        return Event(
            event=EventKind.RESUMED,
            key=key,
            by=by,
            attempts=tuple(outcome.start.attempt for outcome in self.runs[key].outcomes if outcome.began),
            batches=tuple(name for name, keys in self.cluster.batches.items() if key in keys),
        )

    def list_left_keys(self) -> dict[str, str]:
        """Jobs that this sweep has begun and that are not in its plan, with their phase where that is known."""
        begun = {**dict.fromkeys(self.started_here, ""), **self.cluster.sent_phases}
        return {key: phase for key, phase in begun.items() if key not in self.by_key}

    def narrow(self, keys: Collection[str]) -> None:
        """Leaves these jobs alone, for a report; what is asked of the others, which may block them, is known still."""
        if self.by_key.keys() <= set(keys):
            return
        self.jobs = [job for job in self.jobs if job.key in keys]
        causes = {self.statuses[job.key].cause for job in self.jobs}
        self.statuses = {key: found for key, found in self.statuses.items() if key in keys or key in causes}
        self.observed = {key: seen for key, seen in self.observed.items() if key in keys}

    # Why: docs/decisions.md, D220
    def read_node_evidence(self, after: float) -> list[AttemptRecord]:
        """All attempts that may speak against a node: those of unfinished jobs, and those of finished ones that were
        sent more than once, or failed once, and ended after that moment (Unix seconds)."""
        sent = Counter(key for keys in self.cluster.batches.values() for key in set(keys))
        found = [outcome for run in self.runs.values() for outcome in run.outcomes]
        for key, run in self.runs.items():
            records = self.accounting_records.get(key, ()) if run.done and run.finished_at > after else ()
            if records and (sent[key] > 1 or any(record.state != "COMPLETED" for record in records)):
                found += self._reader.read_attempts_of_finished(run, records)
        return found

    def explain_hours(self, key: str) -> HoursDoubt:
        """Why hours of that job may not be the accounting's."""
        return HoursDoubt(unseen=self.cluster.unaccounted.get(key, ""), missing=self.cluster.accounting_problem)

    def _update_statuses(self, keys: Iterable[str]) -> None:
        for key in keys:
            run = self.runs[key]
            if run.done:
                self._facts[key] = DONE_FACTS
                continue
            seen = self.observed.get(key)
            if seen is not None and seen.put_aside and has_failed_by_itself(run):
                self.observed[key] = seen = replace(seen, state=ClusterState.STUCK)
            restarts = self.by_key[key].resources.restarts
            self._facts[key] = collect_facts(key, run, self.user_requests, seen, restarts=restarts)
        self.statuses = compute_job_statuses(self.jobs, self._facts)

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
            if parent in parents and self._was_used(parent, evidence.outcomes[-1]):
                found[parent] = key
        return found

    # Why: docs/decisions.md, D162
    def _was_used(self, parent: str, child: AttemptRecord) -> bool:
        """Whether the parent's result is still the one that an attempt of its child worked on."""
        result = self.runs[parent].run.result
        used = child.start.parents.get(parent)
        if used is not None:
            return used == identify_result(result)
        try:  # of an earlier version: the parent's result is older than the child's last word, by one server's clock
            said = [path.stat().st_mtime for path in (child.paths.exit, child.paths.error) if path.exists()]
            return bool(said) and result.stat().st_mtime < max(said)
        except FileNotFoundError:
            return False

    def find_set_aside_inputs(self) -> frozenset[str]:
        """Unfinished jobs that read what `sweep gc` has set aside: of a finished parent, or of their own run."""
        found = set()
        marked: dict[str, bool] = {}
        for job in self.jobs:
            state = self.statuses[job.key].state
            if state not in UNSENT:
                continue
            for key in (job.key, *job.parents):
                evidence = self.runs[key]
                if not (evidence.done or evidence.outcomes):
                    continue  # it has no files: most jobs of a large plan, and not even a path is built for them
                run = evidence.run
                if key not in marked:
                    marked[key] = run.set_aside.exists()
                if marked[key] and has_set_aside_input(run, job.stage, job.config):
                    found.add(job.key)
        return frozenset(found)

    def restore_inputs(self, key: str) -> None:
        """Brings back what the job reads (`jobs.set_aside.restore_inputs`), under the submit lock; reads it again."""
        job = self.by_key[key]
        changed = restore_inputs(self.store, job, [self.by_key[parent] for parent in job.parents])
        self.update({}, reread=[key for key in changed if key in self.by_key])

    def are_done_before(self, keys: Iterable[str], moment: float) -> bool:
        """Whether the results of all these jobs were written before that moment (Unix seconds of the file server)."""
        try:
            return all(self.runs[key].run.result.stat().st_mtime < moment for key in keys)
        except FileNotFoundError:
            return False


def load_snapshot(
    jobs: Sequence[Job],
    store: Store,
    sweep: str,
    cluster: ClusterReport | None = None,
    *,
    trusts_checked: bool = False,
) -> SweepSnapshot:
    """The jobs as store and cluster show them now."""
    snapshot = SweepSnapshot(jobs, store, sweep, trusts_checked=trusts_checked)
    snapshot.reload(cluster)
    return snapshot


@dataclass(slots=True)
class RunReader:
    """Reads run folders of one store. A stage's folder is listed once, so that unstarted jobs cost no system call."""

    store: Store
    checked: CheckedResults | None = None
    _listed: dict[str, frozenset[str]] = field(default_factory=dict)
    _folders: dict[str, str] = field(default_factory=dict)

    def read_all(
        self, jobs: Iterable[Job], records: Mapping[str, Sequence[AccountingRecord]] | None = None
    ) -> dict[str, RunStatus]:
        """One pass over all jobs, by key; `records`: the cluster's accounting of their executions, by key too."""
        self._listed.clear()
        known = records or {}
        found = {job.key: self._read_if_begun(job, known) for job in jobs}
        if self.checked is not None:
            self.checked.save()
        return found

    def read_one(self, job: Job, records: Sequence[AccountingRecord] = ()) -> RunStatus:
        """What the job's folder shows now, with the cluster's accounting of its executions."""
        return self._read(job, {job.key: records})

    def read_attempts_of_finished(self, run: RunStatus, records: Sequence[AccountingRecord]) -> Sequence[AttemptRecord]:
        """What `read_all` leaves out; empty where the folder cannot be read now."""
        try:
            return read_attempts(run.run, live=False, endings=records)
        except OSError:
            return ()

    def _read(self, job: Job, records: Mapping[str, Sequence[AccountingRecord]]) -> RunStatus:
        folder = self._locate_stage(job)
        name = check_safe_name(job.key)
        if self.checked is not None and (ended := self.checked.find_end(f"{folder}/{name}", name)) is not None:
            return RunStatus(stage_folder=folder, key=name, done=True, finished_at=ended)
        try:
            check = self.checked.check if self.checked else check_result_in
            return _read_run_status(folder, job.key, records, check)
        except OSError as error:
            reason = add_denial(error.strerror or str(error), error)
            problem = f"{folder}/{job.key} cannot be read: {reason}"
            return RunStatus(stage_folder=folder, key=job.key, problem=problem, readable=False)

    def _read_if_begun(self, job: Job, records: Mapping[str, Sequence[AccountingRecord]]) -> RunStatus:
        if job.stage not in self._listed:
            self._listed[job.stage] = list_names(self.store.runs / job.stage)
        if job.key in self._listed[job.stage] or job.key in records:
            return self._read(job, records)
        return RunStatus(stage_folder=self._locate_stage(job), key=job.key)

    def _locate_stage(self, job: Job) -> str:
        if job.stage not in self._folders:
            self._folders[job.stage] = str(self.store.locate_run(job.stage, job.key).root.parent)
        return self._folders[job.stage]


def _read_run_status(
    stage_folder: str,
    key: str,
    records: Mapping[str, Sequence[AccountingRecord]],
    check_folder: Callable[[str, str], ResultCheck],
) -> RunStatus:
    folder = f"{stage_folder}/{key}"
    check = check_folder(folder, key)
    if check.content is not None:
        return _build_done_status(stage_folder, key, check.content)
    run = RunPaths(Path(folder))
    live = is_held(run.lock)
    if not live:  # it may have ended well between the first check and the lock
        check = check_result_in(folder, key)
        if check.content is not None:
            return _build_done_status(stage_folder, key, check.content)
    outcomes = tuple(read_attempts(run, live=live, endings=records.get(key, ())))
    return RunStatus(stage_folder=stage_folder, key=key, problem=check.problem, live=live, outcomes=outcomes)


def _build_done_status(stage_folder: str, key: str, result: Mapping[str, Any]) -> RunStatus:
    return RunStatus(stage_folder=stage_folder, key=key, done=True, finished_at=read_finished_at(result))


# Why: docs/decisions.md, D133
def has_failed_by_itself(evidence: RunStatus) -> bool:
    """Whether the last attempt ended with a failure that no stop signal asked for: its exit code tells the site so."""
    last = evidence.last
    if last is None or last.end is None or not last.recorded:
        return False
    return last.end.failure is not None and not last.end.stop_signal


SAYS_NOTHING = {None, ClusterState.UNKNOWN}
"""Any other state is the cluster's word on attempts of other machines too: alive where it says so, else ended."""


DONE_FACTS = JobFacts(has_result=True)
NEW_FACTS = JobFacts()
CANCELLED_FACTS = JobFacts(cancelled=True)
"""Those of nearly all jobs of a large sweep: one object each."""


def collect_facts(
    key: str, evidence: RunStatus, requests: UserRequests, observation: Observation | None = None, *, restarts: int = 0
) -> JobFacts:
    """What a run's folder, the user's requests and the cluster together say of one job.

    `restarts`: attempts beyond the first that its plan counts on.
    """
    if evidence.done:
        return DONE_FACTS
    if observation is None and not evidence.outcomes and evidence.readable and not evidence.live:
        return CANCELLED_FACTS if key in requests.cancelled else NEW_FACTS
    resumption = requests.get_resumption(key)
    cluster = observation.state if observation else None
    out_of_sight = cluster in SAYS_NOTHING and _may_be_out_of_sight(evidence, resumption)
    return JobFacts(
        live=evidence.live,
        cluster=cluster,
        may_run_elsewhere=out_of_sight or not evidence.readable,
        cancelled=key in requests.cancelled,
        ended_by_person=is_ended_by_person(evidence.outcomes, resumption),
        in_doubt=observation is not None and bool(observation.doubt) and not _explains_end(evidence, observation.id),
        retry_decision=decide_retry(evidence.outcomes, resumption=resumption, restarts=restarts),
    )


def _explains_end(evidence: RunStatus, job_id: str) -> bool:
    """Whether the attempt of that job of the cluster recorded an end that no person can have brought about."""
    last = next((outcome for outcome in reversed(evidence.outcomes) if outcome.began), None)
    if last is None or last.end is None or last.start.job_id != job_id:
        return False
    return not can_conceal_cancellation(last.end, recorded=last.recorded)


def _may_be_out_of_sight(evidence: RunStatus, resumption: Resumption) -> bool:
    """Whether the last attempt ran on another machine, whose locks this one may not see, and nobody noted its end."""
    last = next((outcome for outcome in reversed(evidence.outcomes) if outcome.began), None)
    if evidence.live or last is None or last.recorded or last.accounting_record or is_forgiven(last, resumption):
        return False
    return last.start.boot_id != read_cached_boot_id() and last.start.host != os.uname().nodename


@cache
def read_cached_boot_id() -> str:
    """This machine's boot id, read once."""
    return read_boot_id()
