"""What `sweep submit` and `sweep tick` print at their end, and `--dry-run` instead (docs/json.md, section `submit`)."""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jobs.counted import format_counted
from jobs.job import index_by_key
from jobs.local import attempts
from jobs.reconcile.decide import Action
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from sweep.canary.rule import format_held_lines
from sweep.stored_sweep import StoredSweep


def count_states(snapshot: SweepSnapshot, wanted: Collection[str]) -> dict[str, Any]:
    """What both backends report: how many of the wanted jobs are in which state."""
    states = {state.value: 0 for state in JobState}
    for key in wanted:
        states[snapshot.statuses[key].state] += 1
    return {
        "format": 1,
        "sweep": snapshot.sweep,
        "jobs": len(wanted),
        "complete": states[JobState.DONE] == len(wanted),
        "states": states,
    }


def print_report(outcome: dict[str, Any], *, as_json: bool) -> None:
    """On stdout."""
    print(json.dumps(outcome, indent=1) if as_json else format_outcome_line(outcome))


def print_held(rows: Sequence[Mapping[str, Any]], sweep: str) -> None:
    """On stderr, which jobs wait for the first of their shape."""
    for line in format_held_lines(rows, sweep):
        print(f"sweep: {line}", file=sys.stderr)


def format_outcome_line(outcome: dict[str, Any]) -> str:
    """`demo: 118 of 120 jobs done, 1 failed, 1 blocked`."""
    others = [f"{number} {state}" for state, number in outcome["states"].items() if number and state != "done"]
    return ", ".join(
        [f"{outcome['sweep']}: {outcome['states']['done']} of {format_counted(outcome['jobs'], 'job')} done", *others]
    )


def print_action_rows(
    actions: Sequence[Action],
    stored: StoredSweep,
    calls: Sequence[Mapping[str, Any]] | None = None,
    *,
    as_json: bool,
) -> int:
    """Prints one line an action, and returns how many there are. `calls`: those of sbatch, for JSON."""
    jobs = index_by_key(stored.manifest.jobs)
    rows = [
        {"action": type(action).__name__.lower(), "key": action.key, "phase": jobs[action.key].phase}
        for action in actions
    ]
    if as_json:
        content = {"format": 1, "sweep": stored.manifest.sweep, "actions": rows}
        print(json.dumps(content if calls is None else {**content, "calls": list(calls)}, indent=1))
        return len(rows)
    for row in rows:
        print(f"{row['action']:<10} {row['phase']:<9} {row['key']}  {', '.join(jobs[row['key']].cells[:3])}".rstrip())
    return len(rows)


# What runs in a job: the stages' own entry, or what the environment puts in its place.

PROGRAM_VARIABLE = "SWEEP_STAGE_PROGRAM"
"""For trying the machinery without training: words that run in a stage's place, separated by spaces."""


def read_stage_program() -> Sequence[str]:
    """Words to which the path of job.json is added."""
    return os.environ.get(PROGRAM_VARIABLE, "").split() or attempts.STAGE_PROGRAM
