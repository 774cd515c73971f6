"""The report of `sweep status`: as a mapping for `--json` (docs/json.md, section `status`), and as text from that."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.facts import Evidence
from jobs.job import Job
from jobs.reconcile.attempts import log_path
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from jobs.store.records import FailureClass
from sweep.eta import Eta, estimate_rest, last_metrics
from sweep.text_format import columns, span

BAR_WIDTH = 24
LISTED = 10
"""Running, failed and blocked jobs shown of each kind, unless all are asked for."""
PHASES = ("trunk", "pretrain", "finetune", "evaluate")
JOB_IDS = re.compile(r" \([\d_, ]+\)$")
"""At the end of a reason: which jobs it waits for."""
TROUBLE = (State.FAILED, State.UNKNOWN, State.INTERRUPTED)


def status_summary(sweep: str, picture: Picture, now: float) -> dict[str, Any]:
    """The report as JSON types. `now`: Unix seconds."""
    eta = estimate_rest(picture, now)
    return {
        "format": 1,
        "sweep": sweep,
        "jobs": len(picture.jobs),
        "states": counts(picture, picture.jobs),
        "phases": {
            phase: counts(picture, [job for job in picture.jobs if job.phase == phase]) for phase in phases_of(picture)
        },
        "running": [running_row(job, picture.evidence[job.key], now) for job in picture.in_state({State.RUNNING})],
        "trouble": [row for job in picture.in_state(TROUBLE) if (row := trouble_row(job, picture, sweep))],
        "blocked": blocked_rows(picture),
        "waits": waiting_rows(picture),
        "remarks": list(picture.remarks),
        "eta": eta_row(eta, picture),
    }


def phases_of(picture: Picture) -> list[str]:
    """The phases that there are, in the order of the chain."""
    found = dict.fromkeys(job.phase for job in picture.jobs)
    return [phase for phase in dict.fromkeys([*PHASES, *found]) if phase in found]


def counts(picture: Picture, jobs: Sequence[Job]) -> dict[str, int]:
    """Every state with its number of jobs."""
    found = Counter(picture.statuses[job.key].state for job in jobs)
    return {state.value: found[state] for state in State}


def job_row(job: Job) -> dict[str, Any]:
    """What names a job."""
    return {"key": job.key, "phase": job.phase, "cells": list(job.cells)}


def running_row(job: Job, evidence: Evidence, now: float) -> dict[str, Any]:
    """A live job with its progress, as far as its metrics show."""
    last = last_metrics(evidence)
    start = evidence.last.start if evidence.last else None
    return {
        **job_row(job),
        "attempt": start.attempt if start else "",
        "host": (start.node or start.host) if start else "",
        "pid": start.pid if start else None,
        "seconds": now - start.started_at if start else None,
        "step": last.get("step"),
        "total_steps": last.get("total_steps"),
        "loss": last.get("loss"),
    }


def trouble_row(job: Job, picture: Picture, sweep: str) -> dict[str, Any] | None:
    """A job that failed, or was interrupted for a reason worth telling; None for a plain stop on request."""
    evidence = picture.evidence[job.key]
    state = picture.statuses[job.key].state
    last = evidence.last
    if state is State.UNKNOWN and job.key in picture.observed:
        return None  # the cluster's word is in `waits`
    failure = last.failure if last and state is not State.UNKNOWN else None
    message = evidence.message
    if state is State.UNKNOWN and last is not None:
        message = (
            f"attempt {last.start.attempt} on {last.start.host} left no exit record and cannot be seen from here; "
            "`sweep resume` if it is gone"
        )
    if not message or failure is FailureClass.INTERRUPTED:
        return None
    return {
        **job_row(job),
        "state": state.value,
        "class": failure.value if failure else "",
        "message": message,
        "attempts": len(evidence.outcomes),
        "log": str(log_path(last, picture.store.sweep(sweep))) if last else "",
    }


def blocked_rows(picture: Picture) -> list[dict[str, Any]]:
    """Each blocking job with the number of jobs behind it."""
    behind = Counter(status.cause for status in picture.statuses.values() if status.state is State.BLOCKED)
    return [
        {**job_row(picture.by_key[cause]), "state": picture.statuses[cause].state.value, "behind": number}
        for cause, number in behind.most_common()
    ]


def waiting_rows(picture: Picture) -> list[dict[str, Any]]:
    """What queued jobs wait for and why others cannot be judged, in the cluster's words; the commonest first."""
    found = Counter(
        (picture.statuses[key].state.value, JOB_IDS.sub("", seen.message))
        for key, seen in picture.observed.items()
        if seen.message and picture.statuses[key].state in {State.QUEUED, State.UNKNOWN}
    )
    return [{"state": state, "message": message, "jobs": number} for (state, message), number in found.most_common()]


def eta_row(eta: Eta, picture: Picture) -> dict[str, Any]:
    """Seconds to the end, where something runs or is to run."""
    open_jobs = any(
        status.state not in {State.DONE, State.FAILED, State.BLOCKED, State.CANCELLED}
        for status in picture.statuses.values()
    )
    return {"seconds": eta.seconds if open_jobs else 0.0, "basis": eta.basis if open_jobs else "nothing is left to run"}


def status_text(report: Mapping[str, Any], *, show_all: bool) -> str:
    """The report for a reader, with no newline at the end."""
    limit = None if show_all else LISTED
    parts = [
        phase_table(report),
        section("running", [running_line(row) for row in report["running"]], limit),
        section("trouble", [line for row in report["trouble"][:limit] for line in trouble_lines(row)], None),
        section("blocked", [blocked_line(row) for row in report["blocked"]], limit),
        section("in the queue", [waiting_line(row) for row in report["waits"]], limit),
        section("remarks", list(report["remarks"]), limit),
        eta_line(report),
    ]
    return "\n\n".join(part for part in parts if part)


def phase_table(report: Mapping[str, Any]) -> str:
    """A row a phase, a column a state that occurs, and a bar of what is done."""
    states = [state for state, number in report["states"].items() if number or state == "done"]
    head = [report["sweep"], "", "jobs", *states]
    phases = {**report["phases"], "all": report["states"]}
    rows = [
        [phase, bar(of["done"], sum(of.values())), f"{sum(of.values()):,}", *(f"{of[state]:,}" for state in states)]
        for phase, of in phases.items()
    ]
    return "\n".join(columns([head, *rows], left=2, rules=(len(rows),)))


def bar(done: int, total: int) -> str:
    """`[######......]  50 %`, full only when all is done."""
    filled = BAR_WIDTH * done // total if total else 0
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * done // total if total else 0:>3} %"


def section(title: str, lines: Sequence[str], limit: int | None) -> str:
    """A titled list, cut at `limit` with the number of what is left out; empty if there is nothing."""
    if not lines:
        return ""
    shown = list(lines[:limit])
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown):,} more (--all)")
    return "\n".join([title, *(f"  {line}" for line in shown)])


def running_line(row: Mapping[str, Any]) -> str:
    """Name, steps, loss, time."""
    parts = [name_of(row)]
    if row["step"] is not None and row["total_steps"]:
        parts.append(f"step {row['step']:,} of {row['total_steps']:,}")
    if isinstance(row["loss"], float):
        parts.append(f"loss {row['loss']:.3f}")
    if row["seconds"] is not None:
        parts.append(f"for {span(row['seconds'] / 3600)}")
    return "  ".join(parts)


def trouble_lines(row: Mapping[str, Any]) -> list[str]:
    """What, why, and where to read more."""
    tries = "1 attempt" if row["attempts"] == 1 else f"{row['attempts']} attempts"
    why = f"{row['class']}: {row['message']}" if row["class"] else row["message"]
    lines = [f"{name_of(row)}  {row['state']} after {tries}", f"  {why}"]
    return [*lines, f"  log: {row['log']}"] if row["log"] else lines


def blocked_line(row: Mapping[str, Any]) -> str:
    """How many wait for whom."""
    number = row["behind"]
    return f"{number:,} {'job' if number == 1 else 'jobs'} behind {row['state']} {name_of(row)}"


def waiting_line(row: Mapping[str, Any]) -> str:
    """How many wait for what."""
    return f"{row['jobs']:,} {row['state']}: {row['message']}"


def name_of(row: Mapping[str, Any]) -> str:
    """Phase, first cell and key."""
    return " ".join([row["phase"], *row["cells"][:1], row["key"]])


def eta_line(report: Mapping[str, Any]) -> str:
    """`about 12 min left (...)`."""
    seconds, basis = report["eta"]["seconds"], report["eta"]["basis"]
    if seconds is None:
        return f"time left: not known yet ({basis})"
    return f"about {span(seconds / 3600)} left ({basis})" if seconds else basis
