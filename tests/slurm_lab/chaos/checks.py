"""What must hold of a season's evidence when all is healed: nothing lost, nothing doubled, no two writers at once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.job import Job
from jobs.store.paths import Store
from tests.jobs.toy import executions, results, run_of
from tests.slurm_lab.chaos.graph import expected_values
from tests.slurm_lab.chaos.world import World

LAST_NOTES = 12


def violations(world: World) -> list[str]:
    """Everything that is wrong, each with what there is to understand it."""
    expected, got = expected_values(world.jobs), results(world.store, world.jobs)
    found = []
    for job in world.jobs:
        wrong = [*_value_problems(job, expected, got), *writer_problems(executions(world.store, job))]
        if wrong:
            found.append(f"{world.sweep} {job.key}: {'; '.join(wrong)}\n{dossier(world.store, job)}")
    return [*found, *crashes(world)]


def _value_problems(job: Job, expected: Mapping[str, str], got: Mapping[str, str]) -> Iterator[str]:
    if job.key not in got:
        yield "lost: it has no result"
    elif got[job.key] != expected[job.key]:
        yield f"its value is {got[job.key]} and should be {expected[job.key]}"


def writer_problems(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of one job's executions, in the order in which they were noted (appends of one file have one order)."""
    found = []
    if any(note["event"] == "overlap" for note in notes):
        found.append("two executions held the witness lock at once")
    if sum(note["event"] == "completed" for note in notes) > 1:
        found.append("completed twice")
    order: list[int] = []
    """Process ids by their first step."""
    for note in notes:
        if note["event"] not in {"step", "completed"}:
            continue
        if note["pid"] not in order:
            order.append(note["pid"])
        elif order[-1] != note["pid"]:
            found.append(f"process {note['pid']} worked at {note['time']:.2f} though {order[-1]} had begun")
            break
    return found


def crashes(world: World) -> list[str]:
    """Tracebacks of our own programs: commands and supervisors. Stages raise on purpose, into logs of their own."""
    logs = [world.log, *sorted(world.store.locate_sweep(world.sweep).slurm_logs.glob("*.log"))]
    found = []
    for path in logs:
        text = path.read_text(errors="replace") if path.exists() else ""
        if "Traceback (most recent call last)" in text:
            _, _, after = text.partition("Traceback (most recent call last)")
            found.append(f"{world.sweep}: a traceback in {path}:\n{after[:3000]}")
    return found


def dossier(store: Store, job: Job) -> str:
    """Its last executions and all attempts."""
    run = run_of(store, job)
    lines = [f"    {json.dumps(note)}" for note in executions(store, job)[-LAST_NOTES:]]
    for folder in sorted(run.attempts.glob("*")):
        for name in ("start.json", "exit.json"):
            path = folder / name
            content = " ".join(path.read_text().split()) if path.exists() else "absent"
            lines.append(f"    {folder.name}/{name}: {content}")
    return "\n".join(lines)
