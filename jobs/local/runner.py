"""Runs a sweep's missing jobs on this machine: decide, start what fits, wait, until nothing is left to do.

The queue lives in this process and in its part of the ledger. All else that the runner knows can be read again.
"""

import logging
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from jobs.claims.submit_lock import hold_submit_lock
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.errors import InfeasibleJobError, StoreRefusedError, SubmitterBusyError, describe_storage_error
from jobs.exit_codes import ExitCode
from jobs.job import Job
from jobs.local.attempts import STAGE_PROGRAM, LocalAttempts
from jobs.local.runner_lock import hold_runner_lock
from jobs.local.slots import Slots
from jobs.observation import ClusterState, Observation
from jobs.reconcile.canary import HeldShape, list_held_keys
from jobs.reconcile.decide import Action, Invalidate, Restore, Submit, Withdraw, decide
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.first_checkpoint import Canary
from jobs.reconcile.order import NO_PRIORITIES, NO_TRUNK, WHOLE_TRUNK, sort_jobs
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState, JobStatus
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.results import set_result_aside

logger = logging.getLogger(__name__)

ROUND_SECONDS = 0.5
LOCK_WAIT_SECONDS = 5.0
"""For the submit lock, before it goes on with what needs none."""
UNRECORDED_ENDS = 3
"""Attempts of one job that may be killed before they recorded anything."""
UNCOUNTED_ENDS = {None, ExitCode.DONE, ExitCode.TAKEN, ExitCode.NOT_WANTED, ExitCode.NO_PARENT}
QUEUED = Observation(state=ClusterState.QUEUED)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerEvent:
    """An attempt started or ended."""

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
    """Counts the requests to stop: the first is gentle, the second is not."""

    received: list[int] = field(default_factory=list)
    tell: Callable[[int], None] = lambda _number: None
    """Called in the signal's handler with the number of requests until then."""

    @contextmanager
    def listen_for_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM count while the block runs."""
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # one that Python did not set: nothing here can set it again
                    signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        self.tell(len(self.received))


# Why: docs/decisions.md, D28
class LocalRunner:
    """One run of `sweep submit`. It reloads the snapshot that it is given, and then keeps it up to date.

    `wanted`: keys that may be started (default: all). `priorities`: as `jobs.reconcile.order` takes them. `canary`:
    holds jobs until one of their shape has gone first. `program` runs a stage; it is given job.json's path.
    """

    def __init__(
        self,
        snapshot: SweepSnapshot,
        *,
        slots: Slots,
        wanted: Collection[str] | None = None,
        priorities: Mapping[str, int] = NO_PRIORITIES,
        canary: Canary | None = None,
        program: Sequence[str] = STAGE_PROGRAM,
        report: Callable[[RunnerEvent], None] = lambda _event: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.snapshot = snapshot
        self.wanted = set(snapshot.by_key if wanted is None else wanted)
        self.slots = slots
        self.clock = clock
        self.attempts = LocalAttempts(snapshot.store, snapshot.sweep, slots, program=program, clock=clock)
        self.ledger = Ledger(snapshot.store.locate_sweep(snapshot.sweep).ledger, clock)
        self.report = report
        self.problem = ""
        self.canary = canary
        self.held: Mapping[str, HeldShape] = {}
        """By shape, what the last decision held."""
        self._priorities = priorities
        self._urgent_first: list[Job] = []
        """In the order of starts."""
        self._rank: dict[str, int] = {}
        self._queue: list[Job] = []
        self._unrecorded_ends: Counter[str] = Counter()

    def preview(self) -> list[Action]:
        """What `run` would do first. Changes nothing."""
        self._load()
        return self._decide()

    def run(self, stop: StopRequest) -> RunnerResult:
        """Until nothing is left to do. RunnerBusyError, InfeasibleJobError, StoreRefusedError come before any start."""
        store, sweep = self.snapshot.store, self.snapshot.sweep
        try:
            slots = {"cpus": self.slots.cpus, "gpus": len(self.slots.devices)}
            with hold_runner_lock(store, sweep=sweep, writer=self.ledger.writer, clock=self.clock, **slots):
                self._load()
                return self._run_until_done(stop)
        except OSError as error:
            raise StoreRefusedError(describe_storage_error(error)) from error

    def _load(self) -> None:
        """Reads all facts, and takes charge of what lives."""
        self.snapshot.reload()
        self._rank_jobs()
        self._check_feasible()
        for job in self.snapshot.live:
            self.attempts.adopt(job)
        self.snapshot.update({job.key: Observation(state=ClusterState.RUNNING) for job in self.snapshot.live})
        states = Counter(status.state.value for status in self.snapshot.statuses.values())
        logger.info("the jobs are: %s", ", ".join(f"{number} {state}" for state, number in states.items()))
        for job in self.snapshot.live:
            logger.info("%s %s runs already: waits for its end", job.phase, job.key)

    def _rank_jobs(self) -> None:
        """By what is done now: a chain that has begun ends before another begins."""
        finished = self.snapshot.select_in_state({JobState.DONE})
        trunk_depth = WHOLE_TRUNK if self.slots.cpus > 1 else NO_TRUNK
        left = sort_jobs(self.snapshot.jobs, {job.key for job in finished}, self._priorities, trunk_depth=trunk_depth)
        self._urgent_first = [*finished, *left]
        self._rank = {job.key: rank for rank, job in enumerate(self._urgent_first)}

    def _check_feasible(self) -> None:
        jobs = [job for job in self.snapshot.jobs if job.key in self.wanted]
        undone = [job for job in jobs if self.snapshot.statuses[job.key].state is not JobState.DONE]
        misfits = [(job, reason) for job in undone if (reason := self.slots.find_infeasible_reason(job.resources))]
        if misfits:
            job, reason = misfits[0]
            raise InfeasibleJobError(
                f"{format_counted(len(misfits), 'job')} can never run here; the first, {job.phase} {job.key}: {reason}"
            )

    def _run_until_done(self, stop: StopRequest) -> RunnerResult:
        stops = 0
        while True:
            actions: list[Action] = []
            self._refresh()
            if len(stop.received) > stops:
                stops = len(stop.received)
                self._stop_all(at_once=stops > 1)
            elif not stops and not self.problem:
                actions = self._decide()
                self._act(actions)
            if self.problem:
                self._empty_queue()
            if not self.snapshot.observed and (not actions or self.problem):
                logger.info("ends: %s", self.problem or ("it was asked to stop" if stops else "nothing is left to run"))
                return RunnerResult(problem=self.problem, stopped_by=stop.received[0] if stop.received else 0)
            self._start_what_fits()
            self.attempts.wait(ROUND_SECONDS)

    def _refresh(self) -> None:
        """Takes in what the attempts did, what is on disk of those that ended, and what the user requested."""
        before = dict(self.snapshot.observed)
        polled = {**{job.key: QUEUED for job in self._queue}, **self.attempts.poll()}
        ended = {key: seen for key, seen in polled.items() if seen.state is ClusterState.ENDED}
        now = {key: seen for key, seen in polled.items() if key not in ended}
        changed = {key: now.get(key) for key in {*before, *polled} if before.get(key) != now.get(key)}
        if changed or ended:
            self.snapshot.update(changed, reread=ended)
        self.snapshot.reload_user_requests(but_not_of=self.ledger.writer)
        for key in ended:
            if self.snapshot.runs[key].live:  # somebody else's attempt, or the stage outlived its supervisor
                self.attempts.adopt(self.snapshot.by_key[key])
        self._report_changes(before, ended)

    def _report_changes(self, before: Mapping[str, Observation], ended: Mapping[str, Observation]) -> None:
        for key, seen in self.snapshot.observed.items():
            ran_before = key in before and before[key].state is ClusterState.RUNNING
            if seen.state is ClusterState.RUNNING and not ran_before:
                self._report_event(key, EventKind.STARTED, seen)
        for key, seen in ended.items():
            self._check_end(key, seen)
            self._report_event(key, EventKind.ENDED, seen)

    def _check_end(self, key: str, seen: Observation) -> None:
        """A problem that is not the job's own ends the run of the whole sweep."""
        evidence = self.snapshot.runs[key]
        if evidence.done:
            return
        name = f"{self.snapshot.by_key[key].stage} {key}"
        last = evidence.last
        if seen.returncode in {ExitCode.STORAGE, ExitCode.NOT_SET_UP}:
            self.problem = seen.message or f"an attempt of {name} could not be set up"
        elif last is not None and last.failure is not None and POLICIES[last.failure].stops_submission:
            self.problem = f"{name}: {evidence.message}"
        elif last is None and seen.returncode not in UNCOUNTED_ENDS:
            self._unrecorded_ends[key] += 1
            if seen.returncode == ExitCode.FAILED or self._unrecorded_ends[key] > UNRECORDED_ENDS:
                self.problem = f"attempts of {name} end before they begin: {seen.message or seen.returncode}"

    def _report_event(self, key: str, kind: EventKind, seen: Observation) -> None:
        evidence = self.snapshot.runs[key]
        failed = evidence.last.failure if evidence.last and kind is EventKind.ENDED and not evidence.done else None
        state = self.snapshot.statuses[key].state
        logger.info("%s %s: attempt %s %s%s", key, state, seen.id, kind, f", {failed}" if failed else "")
        logger.debug("%s: exit code %s %s", key, seen.returncode, seen.message)
        try:
            event = Event(event=kind, key=key, time=self.clock.now(), attempt=seen.id, failure=failed)
            self.ledger.append([event])
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

    def _decide(self) -> list[Action]:
        if self.canary is not None:
            self.held = self.canary.find_held(self.snapshot, self._urgent_first, self.wanted)
        return decide(
            self._urgent_first,
            self.snapshot.statuses,
            wanted=self.wanted - list_held_keys(self.held),
            observed=self.snapshot.observed,
            damaged=self.snapshot.find_damaged_parents(),
            chained=False,
            set_aside=self.snapshot.find_set_aside_inputs(),
        )

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            logger.debug("%s", action)
        try:
            for action in actions:
                if isinstance(action, Invalidate):
                    self._invalidate(action)
            self._restore([action.key for action in actions if isinstance(action, Restore)])
            self._withdraw({action.key for action in actions if isinstance(action, Withdraw)})
            self._enqueue([action.key for action in actions if isinstance(action, Submit)])
        except OSError as error:
            self.problem = describe_storage_error(error)

    def _invalidate(self, action: Invalidate) -> None:
        if set_result_aside(self.snapshot.runs[action.key].run):
            self.snapshot.update({}, reread=[action.key])

    def _restore(self, keys: Sequence[str]) -> None:
        """Brings back what jobs read and `sweep gc` set aside; later, while another one has the submit lock."""
        if not keys:
            return
        logger.info("brings back what %d jobs read and was set aside", len(keys))
        try:
            with hold_submit_lock(self.snapshot.store.submitters, wait_seconds=LOCK_WAIT_SECONDS, clock=self.clock):
                for key in keys:
                    self.snapshot.restore_inputs(key)
        except SubmitterBusyError as error:
            logger.info("%s", error)

    def _withdraw(self, keys: Collection[str]) -> None:
        self._queue = [job for job in self._queue if job.key not in keys]

    def _enqueue(self, keys: Sequence[str]) -> None:
        # the ledger first: another process reads there what is queued (jobs.local.runner_lock.read_runner_queue)
        self.ledger.append(Event(event=EventKind.INTENT, key=key, time=self.clock.now()) for key in keys)
        self._queue = sorted(
            [*self._queue, *(self.snapshot.by_key[key] for key in keys)], key=lambda job: self._rank[job.key]
        )
        if keys:
            logger.info("queues %d jobs: %s", len(keys), ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else ""))
            self.snapshot.update(dict.fromkeys(keys, QUEUED))

    def _start_what_fits(self) -> None:
        """In the order of rank. One that lacks a resource holds that resource back from those behind it."""
        short: set[str] = set()
        for job in list(self._queue):
            short |= self.slots.find_shortages(job.resources)
            if "cpus" in short:
                return
            if job.resources.gpus and "gpus" in short:
                continue
            self._queue.remove(job)
            self.attempts.start(job)

    def _stop_all(self, *, at_once: bool) -> None:
        logger.info("%s %d attempts", "kills" if at_once else "stops", len(self.snapshot.observed) - len(self._queue))
        self._queue = []
        self.attempts.terminate(self.snapshot.observed)
        if at_once:
            self.attempts.kill(self.snapshot.observed)

    def _empty_queue(self) -> None:
        """What runs may end well; what is queued stays for the next submission."""
        self.snapshot.update(dict.fromkeys((job.key for job in self._queue), None))
        self._queue = []
