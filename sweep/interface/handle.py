"""`sweep.open(...)`: a planned sweep of a store. Each call is the function behind the command of its name."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.job import Job, add_ancestors
from jobs.local.runner import LocalRunner, RunnerEvent, StopRequest
from jobs.reconcile.unsettled import list_unread_runs
from jobs.store.reading import read_file
from jobs.store.results import list_finished_keys
from stages.printable import escape_unprintable
from sweep.errors import NotPlannedError, PlanConflictError, SweepError, UsageError
from sweep.interface.cells import CellList, PlannedCell
from sweep.interface.html import render_preformatted
from sweep.interface.reports import SubmitReport, SweepStatus
from sweep.interface.stores import check_phase, enter_store, find_store, list_cell_words
from sweep.kept_limits import read_limits
from sweep.plan.manifest import Manifest
from sweep.preflight.gate import GateReport, check_gate
from sweep.report.plan import build_plan_json, format_plan_report
from sweep.report.status import load_status
from sweep.stored_sweep import StoredSweep, open_sweep
from sweep.submit.cancel import Cancellation, cancel_jobs
from sweep.submit.choices import (
    keep_choices,
    list_accepted_problems,
    name_currency,
    record_resumption,
    select_stopped_keys,
    select_wanted,
)
from sweep.submit.local import build_submit_json, format_progress_line, prepare_local_run
from sweep.terminal import render_log_text

if TYPE_CHECKING:
    from pandas import DataFrame

BACKENDS = ("local", "slurm")
WATCH_SECONDS = 2.0
SLURM_WATCH_SECONDS = 60.0
"""Slurm is asked once a minute at most."""

Progress = Callable[[str], None]
"""Is told a line for each job that ends, and of what takes long."""


@dataclass(frozen=True, slots=True)
class PlanParts:
    """What a plan's report is built of."""

    manifest: Manifest
    done: frozenset[str]
    how: Mapping[str, Any]


class SweepPlan:
    """The cells and jobs of a sweep, with their cost: the report of `sweep plan`."""

    def __init__(
        self,
        store: Path,
        manifest: Manifest,
        done: frozenset[str],
        *,
        how: Mapping[str, Any] | None = None,
        problems: Collection[str] = (),
        remarks: Collection[str] = (),
        is_stored: bool = True,
    ) -> None:
        self._report = PlanParts(manifest, done, how or {})
        self.store = store
        self.problems = tuple(problems)
        """What is wrong with what the jobs read, a line each; `submit` refuses the sweep until it is put right."""
        self.remarks = tuple(remarks)
        self.is_stored = is_stored
        """False for a plan that was only looked at."""

    @property
    def name(self) -> str:
        return self._report.manifest.sweep

    @cached_property
    def cells(self) -> CellList:
        return CellList.from_manifest(self._report.manifest)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Parents before children."""
        return self._report.manifest.jobs

    @property
    def done(self) -> frozenset[str]:
        """Keys of the jobs that were done when the plan was read."""
        return self._report.done

    @cached_property
    def record(self) -> dict[str, Any]:
        """As `sweep plan --json` has it (docs/json.md): cost by model and phase, time, what the figures rest on."""
        return build_plan_json(self._report.manifest, self._report.done, **self._report.how)

    @property
    def cost(self) -> dict[str, Any]:
        """Of all jobs together: GPU-hours, A100-hours, core-hours, FLOPs, bytes of checkpoints."""
        cost: dict[str, Any] = self.record["total"]
        return cost

    def open(self) -> "SweepHandle":
        """The sweep, to submit and follow it. PlanConflictError for a plan that was not stored."""
        if not self.is_stored:
            raise PlanConflictError(f"the plan of {self.name!r} was only looked at; plan it again without dry_run")
        return open_handle(self.store, self.name)

    def __str__(self) -> str:
        report = format_plan_report(self._report.manifest, self._report.done, **self._report.how)
        return escape_unprintable("\n".join([report, *self.problems, *self.remarks]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return render_preformatted(str(self))


@dataclass(slots=True)
class BackgroundRun:
    """A submission on this machine that runs in a thread of this process."""

    thread: threading.Thread
    stop: StopRequest
    outcome: list["SubmitReport | BaseException"] = field(default_factory=list)

    def take_outcome(self) -> SubmitReport:
        """Once the thread has ended: what the submission did; raises what it raised."""
        found = self.outcome[0]
        if isinstance(found, BaseException):
            raise found
        return found


# Why: docs/decisions.md, D201
class SweepHandle:
    """A planned sweep. All is read anew at each call: nothing of it is kept, so another process may work on the store.

    Where a call takes `cells`, these are names of cells or keys of jobs, as on the command line; none means all.
    """

    def __init__(self, store: Path, name: str) -> None:
        self.store = store
        self.name = name
        self._run: BackgroundRun | None = None

    def _open(self) -> StoredSweep:
        return open_sweep(self.store, self.name)

    @property
    def plan(self) -> SweepPlan:
        """The stored plan."""
        with enter_store(self.store):
            stored = self._open()
            return SweepPlan(self.store, stored.manifest, list_finished_keys(stored.store, stored.manifest.jobs))

    @property
    def cells(self) -> CellList:
        with enter_store(self.store):
            return CellList.from_manifest(self._open().manifest)

    def status(self, *, fresh: bool = False) -> SweepStatus:
        """What is done, what runs, what failed and why. `fresh`: ask Slurm even if it answered a moment ago."""
        with enter_store(self.store):
            return SweepStatus(load_status(self._open(), fresh=fresh))

    def results(self, table: str = "results") -> "DataFrame":
        """A table of docs/results.md, from what is on disk now: `results`, `jobs`, `cells`, `summary`, `differences`,
        `contrasts` or `metrics`. Nothing is written; unfinished sweeps give partial tables."""
        from sweep.interface.frames import load_table

        with enter_store(self.store):
            return load_table(self._open(), table)

    def metrics(self, *cells: "str | PlannedCell", phase: str | None = None) -> "DataFrame":
        """What the jobs of these cells logged, shared trunks included: `phase`, `step`, `tokens`, `name`, `value`."""
        from sweep.interface.frames import load_metrics

        check_phase(phase)
        with enter_store(self.store):
            stored = self._open()
            return load_metrics(stored, {job.key for job in stored.select_chains(list_cell_words(cells), phase)})

    def logs(self, cell: "str | PlannedCell | None" = None, *, phase: str | None = None) -> str:
        """The log of the newest attempt of the cell's jobs, shared trunks included: of one that runs, else of one that
        failed, else the last.

        Without a cell, of all jobs of the sweep. NotPlannedError where none has started.
        """
        from sweep.report.attempt_log import find_newest_log

        check_phase(phase)
        with enter_store(self.store):
            stored = self._open()
            jobs = stored.select_chains(list_cell_words([] if cell is None else [cell]), phase)
            found = find_newest_log(stored.load_snapshot(recent_answers=True), jobs, stored.paths)
            if found is None:
                raise NotPlannedError(f"none of {format_counted(len(jobs), 'job')} has started, so there is no log yet")
            try:
                return render_log_text(read_file(found.path).decode(errors="replace"))
            except FileNotFoundError:
                return ""

    def submit(
        self,
        *cells: "str | PlannedCell",
        backend: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        max_queued: int | None = None,
        budget_a100_hours: float | None = None,
        budget_core_hours: float | None = None,
        budget_money: float | None = None,
        pace_seconds: float | None = None,
        first: Sequence[str] = (),
        canary: bool = False,
        ignore_data: bool = False,
        background: bool = False,
        progress: Progress = lambda _line: None,
    ) -> SubmitReport | None:
        """Runs what is missing here, to its end, or sends it to Slurm and returns: as `sweep submit`, with its options.

        On this machine SIGINT and SIGTERM let running jobs save and stop, and are then raised again under the handlers
        that were there before: Ctrl-C ends in KeyboardInterrupt, and nothing is lost. In another thread than the main
        one no signal is listened to: `stop()` does the same.

        `background`: on this machine, run in a thread, return None at once, and give the outcome to `wait()`. Jobs
        outlive this process; a later submission goes on with them.
        """
        words = list_cell_words(cells)
        return self._submit(
            self._check_request(backend),
            words,
            (),
            {"first": tuple(first), "canary": "on" if canary else None},
            {
                "max_queued": max_queued,
                "budget_a100_hours": budget_a100_hours,
                "budget_core_hours": budget_core_hours,
                "budget_money": budget_money,
                "only": words,
                "pace_seconds": pace_seconds,
            },
            cpus=cpus,
            gpus=gpus,
            ignore_data=ignore_data,
            background=background,
            progress=progress,
        )

    def _check_request(self, backend: str | None) -> str | None:
        if backend not in {None, *BACKENDS}:
            raise UsageError(f"there is no back end {backend!r}; take {' or '.join(BACKENDS)}")
        if self._run is not None and self._run.thread.is_alive():
            raise UsageError(f"{self.name} is being submitted by this process; wait() for it, or stop() it, first")
        return backend

    def _submit(
        self,
        backend_given: str | None,
        cells: Sequence[str],
        only_now: Sequence[str],
        chosen: Mapping[str, Any],
        lasting: dict[str, object],
        *,
        cpus: int | None,
        gpus: int | None,
        ignore_data: bool,
        background: bool,
        progress: Progress,
    ) -> SubmitReport | None:
        """`lasting`: what is kept for later rounds on Slurm. `only_now`: cells for this submission alone. `chosen`:
        what lasts on either back end, by the names of `KeptLimits`."""
        with enter_store(self.store):
            stored = self._open()
            stored.check_version()
            kept = read_limits(stored.paths.limits, acts=True)
            backend = backend_given or kept.backend or stored.manifest.backend
            on_slurm = backend == "slurm"
            wanted = select_wanted(stored, cells or only_now, kept.only if on_slurm else ())
            report = check_gate(stored, wanted, kept.ignored_inputs)
            accepted = list_accepted_problems(report, kept, ignore_data=ignore_data)
            chosen = {**chosen, "first": stored.select_cells(chosen.get("first", ())).words}
            given = {"backend": backend_given, **chosen, **(lasting if on_slurm else {})}
            if on_slurm:
                if background:
                    raise UsageError("background is for this machine: on Slurm submit() sends, and returns at once")
                keep_choices(stored, name_currency(stored.manifest, given), accepted)
                return run_slurm_round(stored, wanted, report, progress=progress)
            kept = replace(kept, **{name: value for name, value in chosen.items() if value})
            run = LocalSubmission(prepare_local_run(stored, wanted, cpus=cpus, gpus=gpus, kept=kept), report, progress)
            keep_choices(stored, given, accepted)
            if not background:
                with listen_in_main_thread(run.stop):
                    outcome = run.run()
        if not background:
            if stopped_by := int(outcome.record["stopped_by_signal"]):
                signal.raise_signal(stopped_by)  # to whoever listened before: nobody's Ctrl-C is swallowed
            return outcome
        self._start_thread(run)
        return None

    def _start_thread(self, run: "LocalSubmission") -> None:
        outcome: list[SubmitReport | BaseException] = []

        def run_in_thread() -> None:
            try:
                with enter_store(self.store):
                    outcome.append(run.run())
            except Exception as error:  # noqa: BLE001 - wait() raises it where somebody can see it
                outcome.append(error)

        # a daemon: the end of this process ends no job, and a later submission goes on with them
        thread = threading.Thread(target=run_in_thread, name=f"sweep submit {self.name}", daemon=True)
        self._run = BackgroundRun(thread, run.stop, outcome)
        thread.start()

    def stop(self) -> None:
        """Lets a submission that runs in the background save its running jobs and stop; the second call kills them.

        They are not cancelled: `submit()` goes on. Without such a submission nothing happens.
        """
        if self._run is not None and self._run.thread.is_alive():
            self._run.stop.received.append(signal.SIGINT)

    def tick(self, *, results: bool = False, progress: Progress = lambda _line: None) -> SubmitReport:
        """One round on Slurm, as `sweep tick`: records what ended, retries, fills the queue. It obeys what was chosen
        before. `results`: write the tables too."""
        with enter_store(self.store):
            stored = self._open()
            stored.check_version()
            kept = read_limits(stored.paths.limits, acts=True)
            wanted = select_wanted(stored, (), kept.only)
            report = check_gate(stored, wanted, kept.ignored_inputs)
            outcome = run_slurm_round(stored, wanted, report, held_back=report.summary, progress=progress)
            if results:
                from sweep.page.refresh import refresh_results

                refresh_results(stored)
            from sweep.notices.tell import tell_events

            if line := tell_events(stored):
                progress(line)
            return outcome

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll_seconds: float | None = None,
        rounds: bool = False,
        progress: Callable[[SweepStatus], None] = lambda _status: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> SweepStatus:
        """Until nothing goes on without a person: all jobs are done, have failed, or wait for one that has.

        Raises what a submission in the background raised. `timeout`: after so many seconds the status is returned as it
        is. `progress` is given each status that is looked at. `rounds`: on Slurm, each look is a round of `tick()`,
        where no cron does it. Ctrl-C ends the waiting alone.
        """
        deadline = None if timeout is None else clock.monotonic() + timeout
        while True:
            background = self._run if self._run is not None and self._run.thread.is_alive() else None
            on_slurm = self._is_on_slurm()
            if rounds and on_slurm:
                self.tick()
            status = self.status(fresh=rounds and on_slurm)
            progress(status)
            if background is None and (status.is_over or not (on_slurm or status.running or self._has_runner())):
                break
            pause = poll_seconds if poll_seconds is not None else SLURM_WATCH_SECONDS if on_slurm else WATCH_SECONDS
            if deadline is not None:
                pause = min(pause, deadline - clock.monotonic())
                if pause <= 0:
                    return status
            if background is not None:
                background.thread.join(pause)
            else:
                clock.sleep(pause)
        if self._run is not None:
            run, self._run = self._run, None
            run.take_outcome()
        return status

    def _is_on_slurm(self) -> bool:
        with enter_store(self.store):
            stored = self._open()
            return (read_limits(stored.paths.limits).backend or stored.manifest.backend) == "slurm"

    def _has_runner(self) -> bool:
        """Whether a submission of this sweep is at work on this machine."""
        from jobs.local.runner_lock import find_runner_owner

        with enter_store(self.store):
            owner = find_runner_owner(self._open().store)
            return owner is not None and owner.sweep == self.name

    def resume(
        self,
        *cells: "str | PlannedCell",
        submit: bool = True,
        cpus: int | None = None,
        gpus: int | None = None,
        ignore_data: bool = False,
        background: bool = False,
        progress: Progress = lambda _line: None,
    ) -> SubmitReport | None:
        """Gives failed and cancelled jobs a new budget of attempts, and submits them: as `sweep resume`.

        None where nothing is submitted: `submit` is false, or a runner of this sweep is at work and starts them.
        """
        self._check_request(None)
        words = list_cell_words(cells)
        with enter_store(self.store):
            stored = self._open()
            stored.select_jobs(words)
            snapshot = stored.load_snapshot()
            keys, _ = select_stopped_keys(stored, snapshot, words)
            kept = read_limits(stored.paths.limits)
            # before the new budget: a runner at work, or a round from cron, would start the jobs at once
            report = check_gate(stored, add_ancestors(stored.manifest.jobs, keys), kept.ignored_inputs)
            keep_choices(stored, {}, list_accepted_problems(report, kept, ignore_data=ignore_data))
            record_resumption(stored, snapshot, keys)
        if not submit or self._has_runner():
            return None
        return self._submit(
            None,
            (),
            words,
            {},
            {},
            cpus=cpus,
            gpus=gpus,
            ignore_data=ignore_data,
            background=background,
            progress=progress,
        )

    def cancel(
        self, *cells: "str | PlannedCell", grace_seconds: float = 60.0, progress: Progress = lambda _line: None
    ) -> Cancellation:
        """Stops running jobs after they have saved, and takes the rest out until `resume()`: as `sweep cancel`."""
        with enter_store(self.store):
            return cancel_jobs(self._open(), list_cell_words(cells), grace_seconds, report=progress)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a submission in the background stays in this one."""
        return {**self.__dict__, "_run": None}

    def __repr__(self) -> str:
        try:
            plan = self._open().manifest
        except (SweepError, OSError) as error:
            return f"<sweep {self.name} in {self.store}: {error}>"
        size = f"{format_counted(len(plan.cells), 'cell')}, {format_counted(len(plan.jobs), 'job')}"
        return f"<sweep {self.name} in {self.store}: {size}, on {plan.backend}>"

    def _repr_html_(self) -> str:
        return render_preformatted(repr(self))


def open_handle(store: "str | os.PathLike[str] | None" = None, name: str | None = None) -> SweepHandle:
    """A planned sweep of a store (by default that of the command line). Without a name, the only one that is there.

    NotPlannedError names those that are there.
    """
    from sweep.stored_sweep import list_planned_sweeps

    root = find_store(store)
    with enter_store(root):
        if name is None:
            from jobs.store.paths import Store

            names = list_planned_sweeps(Store(root)) if root.is_dir() else []
            if len(names) != 1:
                there = f"it holds {', '.join(names)}: name one" if names else "it holds none: plan one with sweep.plan"
                raise NotPlannedError(f"{root} has no only sweep; {there}")
            name = names[0]
        open_sweep(root, name)
    return SweepHandle(root, name)


# Carrying a submission out.


@dataclass(slots=True)
class LocalSubmission:
    """A submission on this machine that has started nothing yet."""

    runner: LocalRunner
    gate: GateReport
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)

    def run(self) -> SubmitReport:
        """To its end."""
        runner = self.runner
        runner.report = self._report_event
        end = runner.run(self.stop)
        remarks = (*self.gate.remarks, *list_unread_runs(runner.snapshot, runner.wanted))
        return SubmitReport(build_submit_json(runner, runner.wanted, end), remarks)

    def _report_event(self, event: RunnerEvent) -> None:
        if line := format_progress_line(event, self.runner.wanted):
            self.progress(line)


@contextmanager
def listen_in_main_thread(stop: StopRequest) -> Iterator[None]:
    """SIGINT and SIGTERM count in the block; Python lets the main thread alone set handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with stop.listen_for_signals():
        yield


def run_slurm_round(
    stored: StoredSweep, wanted: set[str], gate: GateReport, *, progress: Progress, held_back: str = ""
) -> SubmitReport:
    """One round under the limits that are kept."""
    from sweep.budget.caps import format_budget_line, read_caps
    from sweep.submit.slurm import RoundRequest, build_round_json, run_round

    kept = read_limits(stored.paths.limits, acts=True)
    request = RoundRequest(
        wanted=wanted,
        max_queued=kept.max_queued,
        submit_interval_s=kept.pace_seconds,
        held_back=held_back,
        report_wait=progress,
    )
    done = run_round(stored, request, read_caps(stored.manifest, kept))
    budgets = [format_budget_line(row, stored.manifest.sweep) for row in done.budget]
    remarks = (*gate.remarks, *done.report.gpus, *done.report.limits, *budgets, *done.slurm_round.list_remarks())
    return SubmitReport(build_round_json(done), remarks)
