"""The rule of one sweep as its file and its kept limits have it, and what it holds, for people and for `--json`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.counted import format_counted
from jobs.reconcile.canary import HOLDABLE, CanaryLimits, HeldShape, Verdict
from jobs.reconcile.first_checkpoint import Canary
from jobs.reconcile.order import sort_jobs
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from sweep.canary.advice import suggest_memory
from sweep.canary.shapes import compute_shapes
from sweep.errors import NotPlannedError, UsageError
from sweep.kept_limits import KeptLimits, compute_priorities, find_wanted_keys
from sweep.next_step import NextStep
from sweep.stored_sweep import StoredSweep

SHOWN_KEYS = 5
"""Of held jobs in a row of the report."""


def build_canary(stored: StoredSweep, kept: KeptLimits) -> Canary | None:
    """The rule, without what was released; None where the sweep goes by none."""
    limits = stored.manifest.canary
    if kept.canary == "off" or (kept.canary is None and limits is None):
        return None
    shapes = compute_shapes(stored.manifest)
    free = set(kept.released)
    return Canary(
        {key: shape for key, shape in shapes.items() if shape not in free},
        limits or CanaryLimits(),
        released=list_released_keys(stored, free.difference(shapes.values())),
    )


def list_released_keys(stored: StoredSweep, words: Iterable[str]) -> set[str]:
    """Keys of cells with what they need, and of jobs, that a person has released. Words that a later plan dropped are
    passed over."""
    found: set[str] = set()
    for word in words:
        try:
            found |= {job.key for job in stored.select_chains([word])}
        except (NotPlannedError, UsageError):
            continue
    return found


def name_released(stored: StoredSweep, words: Sequence[str]) -> tuple[str, ...]:
    """The words of `--release` as they are kept: a shape's name or its only beginning, else as `sweep.selection` reads
    cells and jobs. Raises NotPlannedError and UsageError."""
    names = sorted(set(compute_shapes(stored.manifest).values()))
    found: list[str] = []
    for word in words:
        alike = [name for name in names if name == word] or [name for name in names if name.startswith(word)]
        found += alike if len(alike) == 1 else stored.select_cells([word]).words
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class HeldJobs:
    """What the next round would hold."""

    shapes: Mapping[str, HeldShape] = field(default_factory=dict)
    stopped: frozenset[str] = frozenset()
    """Keys of jobs that nothing but a person brings further: those of broken shapes, and all that builds on them."""


def read_held_jobs(
    stored: StoredSweep, snapshot: SweepSnapshot, kept: KeptLimits, unpayable: Collection[str] = ()
) -> HeldJobs:
    """By the rule of the sweep; nothing where it goes by none. `unpayable`: keys of jobs for which no budget has room;
    none of them goes first."""
    canary = build_canary(stored, kept)
    if canary is None:
        return HeldJobs()
    finished = snapshot.select_in_state({JobState.DONE})
    priorities = compute_priorities(stored, kept.first)
    order = [*finished, *sort_jobs(snapshot.jobs, {job.key for job in finished}, priorities)]
    found = canary.find_held(snapshot, order, find_wanted_keys(stored, kept).difference(unpayable))
    stopped = {key for each in found.values() if each.verdict is Verdict.BROKEN for key in each.held}
    for job in snapshot.jobs:  # parents before children
        if snapshot.statuses[job.key].state in HOLDABLE and not stopped.isdisjoint(job.parents):
            stopped.add(job.key)
    return HeldJobs(found, frozenset(stopped))


def build_held_rows(snapshot: SweepSnapshot, held: Mapping[str, HeldShape]) -> list[dict[str, Any]]:
    """Section `held` of docs/json.md: a row for each shape of which jobs are held, broken ones first. A shape of which
    no job can start yet is left out: its jobs wait for their parents."""
    rows = []
    for each in held.values():
        if not each.held or not each.canary:
            continue
        job = snapshot.by_key[each.canary]
        broken = each.verdict is Verdict.BROKEN
        rows.append(
            {
                "shape": each.shape,
                "phase": job.phase,
                "jobs": len(each.held),
                "keys": list(each.held[:SHOWN_KEYS]),
                "verdict": each.verdict.value,
                "canary": each.canary,
                "canary_cells": list(job.cells),
                "canary_state": snapshot.statuses[each.canary].state.value,
                "message": describe_hold(each),
                "advice": suggest_memory(snapshot.by_key, job, snapshot.runs[job.key]) if broken else "",
            }
        )
    return sorted(rows, key=lambda row: row["verdict"] != Verdict.BROKEN.value)


def describe_hold(held: HeldShape) -> str:
    """Why these jobs are held, in one line."""
    if held.verdict is Verdict.BROKEN:
        return f"held: the first job of this shape {held.reason}"
    return "held until the first job of this shape has written its first checkpoint"


def explain_holds(held: HeldJobs) -> dict[str, str]:
    """Of each held job by key, its shape, the job that goes first, and why it waits."""
    return {
        key: f"{each.shape}, first {each.canary or 'none yet'}: {describe_hold(each)}"
        for each in held.shapes.values()
        for key in each.held
    }


def suggest_release(
    step: NextStep, sweep: str, states: Mapping[str, int], rows: Iterable[Mapping[str, Any]]
) -> str | None:
    """The next step where all that is left to send is of broken shapes, and no failed job asks for another first."""
    broken = [row for row in rows if row["verdict"] == Verdict.BROKEN.value]
    if not broken or any(states[state] for state in ("failed", "unknown", "running", "queued")):
        return None
    return step.suggest("lets the jobs of this shape go all the same", "limits", sweep, "--release", broken[0]["shape"])


def format_held_lines(rows: Sequence[Mapping[str, Any]], sweep: str) -> list[str]:
    """For a reader: how many of which shape, why, which job went first, what to change, how to go on without it."""
    lines: list[str] = []
    for row in rows:
        cell = f" {row['canary_cells'][0]}" if row["canary_cells"] else ""
        name = f"{row['phase']}{cell} {row['canary']}"
        lines.append(f"{format_counted(row['jobs'], 'job')} of shape {row['shape']}  {row['message']}")
        lines.append(f"  first: {name}, {row['canary_state']}")
        if row["advice"]:
            lines.append(f"  {row['advice']}")
        if row["verdict"] == Verdict.BROKEN.value:
            repair = "`sweep resume` of it once it is repaired, or " if row["canary_state"] == "failed" else ""
            lines.append(f"  free again by {repair}`sweep limits {sweep} --release {row['shape']}`")
    return lines


def count_held(rows: Iterable[Mapping[str, Any]]) -> int:
    """Jobs of all rows."""
    return sum(row["jobs"] for row in rows)
