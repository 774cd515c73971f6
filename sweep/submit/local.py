"""`sweep submit` on this machine: runs to the end with progress on stderr."""

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from jobs.counted import format_counted
from jobs.local.runner import LocalRunner, RunnerEvent, RunnerResult, StopRequest
from jobs.local.slots import detect_machine_slots
from jobs.observation import ClusterState
from jobs.reconcile.decide import Action
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.reconcile.unsettled import list_unread_runs
from jobs.store.ledger import EventKind, has_batches
from stages.printable import render_line
from sweep.canary.rule import build_canary, build_held_rows, suggest_release
from sweep.errors import SweepError
from sweep.kept_limits import KeptLimits, compute_priorities, read_limits
from sweep.next_step import NextStep
from sweep.stored_sweep import StoredSweep
from sweep.submit.report import count_states, print_action_rows, print_held, print_report, read_stage_program
from sweep.terminal import find_raw_stream


def run_local(
    stored: StoredSweep,
    wanted: Collection[str],
    *,
    cpus: int | None,
    gpus: int | None,
    dry_run: bool,
    as_json: bool,
    kept: KeptLimits | None = None,
    before_start: Callable[[], None] = lambda: None,
) -> int:
    """The exit code of `sweep submit` with the backend `local`. `cpus`, `gpus`: for all jobs at once; None: all.
    `kept`: what goes first, and whether one job of a shape does; None: as the store has it.

    `before_start` is called once nothing speaks against the run any more, and not for a dry run.
    """
    local = prepare_local_run(stored, wanted, cpus=cpus, gpus=gpus, kept=kept)
    snapshot = local.snapshot
    if dry_run:
        actions = local.preview()
        print_held(build_held_rows(snapshot, local.held), snapshot.sweep)
        waits = {key for key in wanted if snapshot.statuses[key].state is JobState.WAITING}
        return print_actions(actions, stored, len(waits - {action.key for action in actions}), as_json=as_json)
    before_start()
    stop = StopRequest(tell=partial(tell_stop, local))
    with show_progress(snapshot, wanted) as report, stop.listen_for_signals():
        local.report = report
        end = local.run(stop)
    outcome = build_submit_json(local, wanted, end)
    print_report(outcome, as_json=as_json)
    print_held(outcome["held"], stored.manifest.sweep)
    for line in list_unread_runs(snapshot, wanted):
        print(f"sweep submit: {line}", file=sys.stderr)
    if end.problem:
        print(f"sweep submit: stopped: {end.problem}", file=sys.stderr)
        print("nothing is lost: put it right and submit again", file=sys.stderr)
    if not as_json:
        step, states = NextStep(stored.store.root), outcome["states"]
        release = suggest_release(step, snapshot.sweep, states, outcome["held"])
        print(release or step.suggest_for_states(snapshot.sweep, states, jobs=snapshot.jobs), file=sys.stderr)
    if end.stopped_by:
        return 128 + end.stopped_by
    return 0 if outcome["complete"] and not end.problem else 1


def prepare_local_run(
    stored: StoredSweep, wanted: Collection[str], *, cpus: int | None, gpus: int | None, kept: KeptLimits | None = None
) -> LocalRunner:
    """A runner that has started nothing yet; `kept` as `run_local` has it. SweepError where Slurm has some of the
    jobs."""
    snapshot = stored.load_snapshot()
    if has_batches(stored.paths.ledger):
        check_not_on_slurm(snapshot, wanted)
    slots = detect_machine_slots(cpus, gpus)
    kept = kept or read_limits(stored.paths.limits)
    return LocalRunner(
        snapshot,
        slots=slots,
        wanted=wanted,
        priorities=compute_priorities(stored, kept.first),
        canary=build_canary(stored, kept),
        program=read_stage_program(),
    )


# Why: docs/decisions.md, D186
def tell_stop(local: LocalRunner, request: int) -> None:
    """Says at once what a signal does, past what is being printed: the handler may have come into the midst of that."""
    number = local.attempts.count  # the snapshot hears of a start a moment later
    jobs, one = format_counted(number, "running job"), number == 1
    if request == 1:
        what = "saves and ends; Ctrl-C again kills it" if one else "save and end; Ctrl-C again kills them"
        line = f"stopping: {jobs} {what}"
    else:
        line = f"killing {jobs}; what was saved stays, and `sweep submit {local.snapshot.sweep}` goes on from there"
    with suppress(OSError):
        os.write(2, f"\n{render_line(line)}\n".encode())


def check_not_on_slurm(snapshot: SweepSnapshot, wanted: Collection[str]) -> None:
    """SweepError if Slurm has some of the jobs, or may have: one job in two places would fight over its folder."""
    observed = snapshot.observed
    there = [key for key in wanted if key in observed and observed[key].state is not ClusterState.ENDED]
    if there:
        raise SweepError(
            f"{format_counted(len(there), 'job is', 'jobs are')} in Slurm's hands; "
            f"`sweep cancel {snapshot.sweep}` takes {'it' if len(there) == 1 else 'them'} out first"
        )


def build_submit_json(local: LocalRunner, wanted: Collection[str], end: RunnerResult) -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    return {
        **count_states(local.snapshot, wanted),
        "problem": end.problem,
        "stopped_by_signal": end.stopped_by,
        "held": build_held_rows(local.snapshot, local.held),
    }


def print_actions(actions: list[Action], stored: StoredSweep, behind: int, *, as_json: bool) -> int:
    """One line an action; `behind`: jobs that wait for these."""
    number = print_action_rows(actions, stored, as_json=as_json)
    print(describe_start(number, behind), file=sys.stderr)
    return 0


def describe_start(number: int, behind: int) -> str:
    """`Would start 17 jobs now; 57 more follow when their inputs are ready.`"""
    more = f"; {behind:,} more {'follows' if behind == 1 else 'follow'} when their inputs are ready" if behind else ""
    return f"Would start {format_counted(number, 'job')} now{more}."


@contextmanager
def show_progress(snapshot: SweepSnapshot, wanted: Collection[str]) -> Iterator[Callable[[RunnerEvent], None]]:
    """A bar on a terminal, and one line for each job that ends; gives the listener for a runner. All goes to stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _show_progress_bar(snapshot, wanted) as listener:
            yield listener
        return

    def print_event(event: RunnerEvent) -> None:
        line = format_progress_line(event, wanted)
        if line:
            print(line, file=sys.stderr, flush=True)

    yield print_event


def format_progress_line(progress: RunnerEvent, wanted: Collection[str]) -> str:
    """`12:03:10 [5/40] done finetune m5-b60-i10 3f... (71 s)`; empty for an attempt that starts."""
    if progress.event is not EventKind.ENDED:
        return ""
    job = progress.job
    name = job.cells[0] if job.cells else job.phase
    parts = [
        time.strftime("%H:%M:%S"),
        f"[{count_done(progress.snapshot, wanted)}/{len(wanted)}]",
        f"{progress.status.state:<11} {job.phase:<8} {name} {job.key}",
    ]
    return "  ".join([*parts, progress.message] if progress.message else parts)


def count_done(snapshot: SweepSnapshot, wanted: Collection[str]) -> int:
    """How many of the wanted jobs are done."""
    return sum(snapshot.statuses[key].state is JobState.DONE for key in wanted)


@contextmanager
def _show_progress_bar(snapshot: SweepSnapshot, wanted: Collection[str]) -> Iterator[Callable[[RunnerEvent], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(file=find_raw_stream(sys.stderr))) as bar:
        task = bar.add_task("jobs", total=len(wanted))

        def show_event(event: RunnerEvent) -> None:
            line = format_progress_line(event, wanted)
            if line:
                bar.console.print(render_line(line), markup=False, highlight=False, soft_wrap=True)
            running = sum(status.state is JobState.RUNNING for status in snapshot.statuses.values())
            bar.update(task, completed=count_done(snapshot, wanted), description=f"{running} running")

        yield show_event
