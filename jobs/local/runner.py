"""Drives a sweep on a cluster until nothing is left to do: look, decide, act, wait."""

import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from jobs.cluster import AcceptedRequest, AttemptRequest, Cluster, ClusterState, Observation
from jobs.errors import InfeasibleJobError, StoreRefusedError, describe_storage_error
from jobs.exit_codes import ExitCode
from jobs.job import Job, rank_jobs
from jobs.local.cluster import STAGE_PROGRAM, LocalCluster, Slots
from jobs.local.runner_lock import hold_runner_lock
from jobs.reconcile.decide import Action, Invalidate, Submit, Withdraw, decide
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState, JobStatus
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store
from jobs.store.results import set_result_aside

ROUND_SECONDS = 0.5
UNRECORDED_ENDS = 3
"""Attempts of one job that may be killed before they recorded anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvent:
    """Something that a watcher may want to hear: an attempt started or ended."""

    job: Job
    event: EventKind
    status: JobStatus
    message: str
    snapshot: SweepSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerResult:
    """Where the runner left the sweep."""

    problem: str = ""
    """Why nothing more was started, in one line; empty if everything that could run did."""
    stopped_by: int = 0
    """The signal that asked it to stop; 0 if none did."""


@dataclass(slots=True)
class StopRequest:
    """Counts the wishes to stop: the first is gentle, the second is not."""

    received: list[int] = field(default_factory=list)

    @contextmanager
    def listen_for_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM count while the block runs."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)


class Runner:
    """One run of `sweep submit`. All that it knows can be read again from the store and the cluster."""

    def __init__(
        self,
        *,
        picture: SweepSnapshot,
        wanted: Collection[str],
        cluster: Cluster,
        ledger: Ledger,
        trunks_first: bool,
        report: Callable[[RunnerEvent], None],
    ) -> None:
        self.snapshot = picture
        self.wanted = wanted
        self.cluster = cluster
        self.ledger = ledger
        self.report = report
        self.rank = rank_jobs(picture.jobs, trunks_first=trunks_first)
        self.urgent_first = sorted(picture.jobs, key=lambda job: self.rank[job.key])
        self.problem = ""
        self._observed: Mapping[str, Observation] = {}
        self._unrecorded: Counter[str] = Counter()

    def run(self, stop: StopRequest) -> RunnerResult:
        """Until every wanted job is done or stopped, a problem of the store or the installation, or a stop request."""
        self.reload()
        asked = 0
        while True:
            actions: list[Action] = []
            self._refresh()
            if len(stop.received) > asked:
                asked = len(stop.received)
                self._stop_all(at_once=asked > 1)
            elif not asked and not self.problem:
                actions = self.decide()
                self._act(actions)
            if self.problem:
                self._empty_the_queue()
            if not self._observed and (not actions or self.problem):
                return RunnerResult(problem=self.problem, stopped_by=stop.received[0] if stop.received else 0)
            self.cluster.wait(ROUND_SECONDS)

    def reload(self) -> None:
        """Reads all facts and takes charge of what lives."""
        self.snapshot.reload({})
        self.cluster.adopt(self.snapshot.live)
        self._observed = self.cluster.observe()

    def decide(self) -> list[Action]:
        """What would be done now."""
        return decide(
            self.urgent_first,
            self.snapshot.statuses,
            wanted=self.wanted,
            observed=self._observed,
            damaged=self.snapshot.find_damaged_parents(),
            chained=self.cluster.chained,
        )

    def _refresh(self) -> None:
        """Asks the cluster, and the store about what has ended."""
        before = self._observed
        seen = self.cluster.observe()
        ended = {key: observation for key, observation in seen.items() if observation.state is ClusterState.ENDED}
        self._observed = {key: observation for key, observation in seen.items() if key not in ended}
        changed = {key for key in {*before, *seen} if before.get(key) != self._observed.get(key)}
        self.snapshot.reload_runs(changed & ended.keys())
        if self.snapshot.reload_user_requests(but_not_of=self.ledger.writer):
            changed = set(self.snapshot.by_key)
        if not changed:
            return
        self.snapshot.update(changed, self._observed)
        self.cluster.adopt([job for job in self.snapshot.live if job.key in ended])
        self._report_changes(before, ended)

    def _report_changes(self, before: Mapping[str, Observation], ended: Mapping[str, Observation]) -> None:
        for key, seen in self._observed.items():
            if seen.state is ClusterState.RUNNING and (key not in before or before[key].state is not seen.state):
                self._report_event(key, EventKind.STARTED, seen)
        for key, seen in ended.items():
            self._check_end(key, seen)
            self._report_event(key, EventKind.ENDED, seen)

    def _check_end(self, key: str, seen: Observation) -> None:
        """A problem that is not the job's own ends the run of the whole sweep."""
        evidence = self.snapshot.runs[key]
        if evidence.result is not None:
            return
        name = f"{self.snapshot.by_key[key].stage} {key}"
        last = evidence.last
        if seen.returncode in {ExitCode.STORAGE, ExitCode.NOT_SET_UP}:
            self.problem = seen.message or f"an attempt of {name} could not be set up"
        elif last is not None and last.failure is not None and POLICIES[last.failure].stops_submission:
            self.problem = f"{name}: {evidence.message}"
        elif last is None and seen.returncode not in {None, ExitCode.DONE, ExitCode.TAKEN}:
            self._unrecorded[key] += 1
            if seen.returncode == ExitCode.FAILED or self._unrecorded[key] > UNRECORDED_ENDS:
                self.problem = f"attempts of {name} end before they begin: {seen.message or seen.returncode}"

    def _act(self, actions: Sequence[Action]) -> None:
        try:
            for action in actions:
                if isinstance(action, Invalidate):
                    self._invalidate(action)
            self.cluster.cancel([action.key for action in actions if isinstance(action, Withdraw)])
            self._submit([action for action in actions if isinstance(action, Submit)])
        except OSError as error:
            self.problem = describe_storage_error(error)

    def _submit(self, submits: Sequence[Submit]) -> None:
        """The intent is on disk before the cluster hears of it."""
        self.ledger.append(Event(event=EventKind.INTENT, key=submit.key) for submit in submits)
        answers = self.cluster.submit(
            [
                AttemptRequest(job=self.snapshot.by_key[submit.key], rank=self.rank[submit.key], after=submit.after)
                for submit in submits
            ]
        )
        placed = {
            answer.key: Observation(state=ClusterState.QUEUED, id=answer.id)
            for answer in answers
            if isinstance(answer, AcceptedRequest)
        }
        self._observed = {**self._observed, **placed}
        if placed:
            self.snapshot.update(placed, self._observed)

    def _invalidate(self, action: Invalidate) -> None:
        if set_result_aside(self.snapshot.runs[action.key].run):
            self.snapshot.reload_runs([action.key])
            self.snapshot.update([action.key], self._observed)

    def _stop_all(self, *, at_once: bool) -> None:
        self.cluster.cancel(self._observed)
        if at_once:
            self.cluster.kill(self._observed)

    def _empty_the_queue(self) -> None:
        """What runs may end well; what is queued stays for the next submission."""
        queued = [key for key, seen in self._observed.items() if seen.state is ClusterState.QUEUED]
        self.cluster.cancel(queued)
        self._observed = {key: seen for key, seen in self._observed.items() if key not in queued}

    def _report_event(self, key: str, kind: EventKind, seen: Observation) -> None:
        evidence = self.snapshot.runs[key]
        failed = evidence.last.failure if evidence.last and kind is EventKind.ENDED and not evidence.result else None
        try:
            self.ledger.append([Event(event=kind, key=key, attempt=seen.id, failure=failed)])
        except OSError as error:
            self.problem = self.problem or describe_storage_error(error)
        self.report(
            RunnerEvent(
                job=self.snapshot.by_key[key],
                event=kind,
                status=self.snapshot.statuses[key],
                message=evidence.message if failed else "",
                snapshot=self.snapshot,
            )
        )


# Runs a sweep's missing jobs on this machine: what `sweep submit` does without a scheduler.


class LocalRun:
    """One sweep, one store, the slots of this machine. `program` runs a stage; it is given job.json's path."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        store: Store,
        sweep: str,
        slots: Slots,
        wanted: Collection[str] | None = None,
        program: Sequence[str] = STAGE_PROGRAM,
        report: Callable[[RunnerEvent], None] = lambda _progress: None,
    ) -> None:
        self.store = store
        self.sweep = sweep
        self.cluster = LocalCluster(store, sweep, slots, program=program)
        self.ledger = Ledger(store.locate_sweep(sweep).ledger)
        self.snapshot = SweepSnapshot(jobs, store, self.ledger.folder)
        self.wanted = {job.key for job in jobs} if wanted is None else set(wanted)
        self.runner = Runner(
            picture=self.snapshot,
            wanted=self.wanted,
            cluster=self.cluster,
            ledger=self.ledger,
            trunks_first=slots.cpus > 1,
            report=report,
        )

    def preview(self) -> list[Action]:
        """What `run` would do first. Changes nothing."""
        self.runner.reload()
        self._check_feasible()
        return self.runner.decide()

    def run(self, stop: StopRequest) -> RunnerResult:
        """Until nothing is left to do. RunnerBusyError, InfeasibleJobError, StoreRefusedError come before any start."""
        try:
            with hold_runner_lock(self.store, sweep=self.sweep, writer=self.ledger.writer):
                self.snapshot.reload({})
                self._check_feasible()
                return self.runner.run(stop)
        except OSError as error:
            raise StoreRefusedError(describe_storage_error(error)) from error

    def _check_feasible(self) -> None:
        jobs = [job for job in self.snapshot.jobs if job.key in self.wanted]
        undone = [job for job in jobs if self.snapshot.statuses[job.key].state is not JobState.DONE]
        check_feasible(undone, self.cluster)


def check_feasible(jobs: Iterable[Job], cluster: LocalCluster) -> None:
    """Raises InfeasibleJobError, naming the first of the jobs that could never run here."""
    misfits = [(job, reason) for job in jobs if (reason := cluster.find_infeasible_reason(job)) is not None]
    if misfits:
        job, reason = misfits[0]
        raise InfeasibleJobError(f"{len(misfits)} jobs can never run here; the first, {job.phase} {job.key}: {reason}")
