"""`sweep submit NAME`: runs what is missing, and only that; again at any time."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from sweep.arguments import count, positive

if TYPE_CHECKING:
    from jobs.local_run import LocalRun
    from jobs.runner import RunnerEnd
    from jobs.submission import Action
    from sweep.stored_sweep import StoredSweep

HELP = "run what is missing of a sweep; safe to repeat at any time"
BACKENDS = ("local",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("--backend", choices=BACKENDS, help="where it runs (default: as the sweep file says)")
    parser.add_argument("--cpus", type=positive, metavar="N", help="CPU cores that jobs may use at once (default: all)")
    parser.add_argument("--gpus", type=count, metavar="N", help="GPUs that jobs may use at once (default: all)")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="these cells or jobs, and what they need")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done first, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep submit demo --cpus 2\n  sweep submit demo --only m5-b60-i10 --dry-run\n"
        "Ctrl-C once: running jobs save and stop; twice: they are killed. Run it again to go on."
    )


def run(options: argparse.Namespace) -> int:
    from jobs.graph import with_ancestors
    from jobs.local import STAGE_PROGRAM
    from jobs.local_run import LocalRun
    from jobs.slots import machine_slots
    from sweep.stored_sweep import open_sweep, told_to_the_user

    stored = open_sweep(options.store, options.name)
    refuse_other_backends(options.backend or stored.manifest.backend)
    wanted = with_ancestors(stored.manifest.jobs, {job.key for job in stored.jobs_named(options.only)})
    with told_to_the_user():
        local = LocalRun(
            stored.manifest.jobs,
            store=stored.store,
            sweep=stored.manifest.sweep,
            slots=machine_slots(options.cpus, options.gpus),
            wanted=wanted,
            program=STAGE_PROGRAM,
        )
        if options.dry_run:
            return show_actions(local.preview(), stored, as_json=options.json)
        return run_and_tell(local, as_json=options.json)


def refuse_other_backends(backend: str) -> None:
    """SweepError for a sweep that is planned for a cluster which this version cannot submit to."""
    from sweep.errors import SweepError

    if backend not in BACKENDS:
        raise SweepError(f"this sweep is planned for {backend}; try it on this machine with --backend local")


def run_and_tell(local: "LocalRun", *, as_json: bool) -> int:
    """Runs to the end with progress on stderr; the outcome on stdout."""
    from jobs.runner import StopRequest
    from sweep.progress import watching

    stop = StopRequest()
    with watching(local.picture, local.wanted) as report, stop.listening():
        local.runner.report = report
        end = local.run(stop)
    outcome = summary(local, end)
    print(json.dumps(outcome, indent=1) if as_json else outcome_line(outcome))
    if end.problem:
        print(f"sweep submit: stopped: {end.problem}", file=sys.stderr)
        print("nothing is lost: put it right and run `sweep submit` again", file=sys.stderr)
    if end.stopped_by:
        return 128 + end.stopped_by
    return 0 if outcome["complete"] and not end.problem else 1


def summary(local: "LocalRun", end: "RunnerEnd") -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    from jobs.state import State

    states = {state.value: 0 for state in State}
    for key in local.wanted:
        states[local.picture.statuses[key].state] += 1
    return {
        "format": 1,
        "sweep": local.sweep,
        "jobs": len(local.wanted),
        "complete": states[State.DONE] == len(local.wanted),
        "states": states,
        "problem": end.problem,
        "stopped_by_signal": end.stopped_by,
    }


def outcome_line(outcome: dict[str, Any]) -> str:
    """`demo: 118 of 120 jobs done, 1 failed, 1 blocked; sweep status demo`."""
    others = [f"{number} {state}" for state, number in outcome["states"].items() if number and state != "done"]
    line = ", ".join([f"{outcome['sweep']}: {outcome['states']['done']} of {outcome['jobs']} jobs done", *others])
    return line if outcome["complete"] else f"{line}; see `sweep status {outcome['sweep']}`"


def show_actions(actions: "list[Action]", stored: "StoredSweep", *, as_json: bool) -> int:
    """One line an action; what waits for these follows when they are done."""
    from jobs.graph import by_key

    jobs = by_key(stored.manifest.jobs)
    rows = [
        {"action": type(action).__name__.lower(), "key": action.key, "phase": jobs[action.key].phase}
        for action in actions
    ]
    if as_json:
        print(json.dumps({"format": 1, "sweep": stored.manifest.sweep, "actions": rows}, indent=1))
        return 0
    for row in rows:
        print(f"{row['action']:<10} {row['phase']:<9} {row['key']}  {', '.join(jobs[row['key']].cells[:3])}".rstrip())
    print(f"{len(rows)} jobs would go first; those behind them follow as they end", file=sys.stderr)
    return 0
