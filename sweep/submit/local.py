"""`sweep submit` on this machine: runs to the end with progress on stderr."""

import argparse
import sys
from collections.abc import Collection
from typing import Any

from jobs.cluster import ClusterState
from jobs.local.runner import RunnerEnd, StopRequest
from jobs.local_run import LocalRun
from jobs.reconcile.decide import Action
from jobs.slots import machine_slots
from jobs.store.ledger import has_batches
from sweep.errors import SweepError
from sweep.progress import watching
from sweep.stage_program import stage_program
from sweep.stored_sweep import StoredSweep
from sweep.submit.report import action_rows, print_report, state_counts


def run_local(options: argparse.Namespace, stored: StoredSweep, wanted: Collection[str]) -> int:
    """The exit code of `sweep submit` with the backend `local`."""
    refuse_jobs_on_slurm(stored, wanted)
    local = LocalRun(
        stored.manifest.jobs,
        store=stored.store,
        sweep=stored.manifest.sweep,
        slots=machine_slots(options.cpus, options.gpus),
        wanted=wanted,
        program=stage_program(),
    )
    if options.dry_run:
        return show_actions(local.preview(), stored, as_json=options.json)
    stop = StopRequest()
    with watching(local.picture, local.wanted) as report, stop.listening():
        local.runner.report = report
        end = local.run(stop)
    outcome = summary(local, end)
    print_report(outcome, as_json=options.json)
    if end.problem:
        print(f"sweep submit: stopped: {end.problem}", file=sys.stderr)
        print("nothing is lost: put it right and run `sweep submit` again", file=sys.stderr)
    if end.stopped_by:
        return 128 + end.stopped_by
    return 0 if outcome["complete"] and not end.problem else 1


def refuse_jobs_on_slurm(stored: StoredSweep, wanted: Collection[str]) -> None:
    """SweepError if Slurm has some of the jobs, or may have: one job in two places would fight over its folder."""
    if not has_batches(stored.paths.ledger):
        return
    observed = stored.picture().observed
    there = [key for key in wanted if key in observed and observed[key].state is not ClusterState.ENDED]
    if there:
        name = stored.manifest.sweep
        raise SweepError(f"{len(there)} jobs are in Slurm's hands; `sweep cancel {name}` takes them out first")


def summary(local: LocalRun, end: RunnerEnd) -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    return {
        **state_counts(local.sweep, local.picture, local.wanted),
        "problem": end.problem,
        "stopped_by_signal": end.stopped_by,
    }


def show_actions(actions: list[Action], stored: StoredSweep, *, as_json: bool) -> int:
    """One line an action; what waits for these follows when they are done."""
    number = action_rows(actions, stored, as_json=as_json)
    print(f"{number} jobs would go first; those behind them follow as they end", file=sys.stderr)
    return 0
