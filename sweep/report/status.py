"""The report of `sweep status`: as a mapping for `--json` (docs/json.md, section `status`), and as text from that."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.job import Job
from jobs.reconcile.attempts import log_path, read_tail
from jobs.reconcile.snapshot import Evidence, Picture
from jobs.reconcile.state import STOPPED, State
from jobs.store.records import FailureClass
from sweep.text_format import columns, span

# How long a sweep still takes on one machine: from what finished jobs took, scaled by their estimates.

LAST_LINES_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Eta:
    """`seconds` None: nothing is known yet. `basis` says where it comes from."""

    seconds: float | None
    basis: str


def estimate_rest(picture: Picture, now: float) -> Eta:
    """Time to the end of all jobs that are not stopped, if as many run at once as do now, one at least.

    The longer of two lower bounds: all remaining work over the jobs at once, and the longest chain.
    `now`: Unix seconds.
    """
    pace = observed_pace(picture)
    remaining: dict[str, float] = {}
    for job in picture.jobs:
        state = picture.statuses[job.key].state
        if state is State.DONE or state in STOPPED:
            continue
        seconds = remaining_seconds(job, picture.evidence[job.key], state, pace, now)
        if seconds is None:
            return Eta(None, "no job of this kind has finished yet")
        remaining[job.key] = seconds
    at_once = max(1, len(picture.in_state({State.RUNNING})))
    bound = max(sum(remaining.values()) / at_once, longest_chain(picture.jobs, remaining))
    return Eta(bound, f"{at_once} at once; durations of finished jobs" if pace else f"{at_once} at once; estimates")


def observed_pace(picture: Picture) -> dict[str, float]:
    """Seconds of finished jobs for one unit of `work_of`, by phase; under "" that of all phases together."""
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for job in picture.jobs:
        result = picture.evidence[job.key].result
        took = result.get("seconds") if result else None
        if not isinstance(took, int | float) or took <= 0:
            continue
        for phase in (job.phase, ""):
            seconds[phase] = seconds.get(phase, 0.0) + took
            work[phase] = work.get(phase, 0.0) + work_of(job)
    return {phase: seconds[phase] / work[phase] for phase in seconds}


def work_of(job: Job) -> float:
    """A job's size in a unit that is the same for all jobs: the plan's seconds, which know how fast a model is and on
    how many GPUs; FLOPs where it has no seconds, and 1 where nothing is estimated."""
    return planned_seconds(job) or (job.estimate.flops + job.estimate.encoder_flops) or 1.0


def remaining_seconds(
    job: Job, evidence: Evidence, state: State, pace: Mapping[str, float], now: float
) -> float | None:
    """What the job still takes; a running one by its own last metrics line where it has one."""
    if state is State.RUNNING and evidence.last is not None:
        seconds = by_metrics(evidence, evidence.last.start.started_at, now)
        if seconds is not None:
            return seconds
    whole = planned_seconds(job)
    if job.phase in pace or "" in pace:
        whole = pace.get(job.phase, pace.get("", 0.0)) * work_of(job)
    if whole is None or state is not State.RUNNING or evidence.last is None:
        return whole
    return max(0.0, whole - (now - evidence.last.start.started_at))


def planned_seconds(job: Job) -> float | None:
    """The estimate as wall seconds on the resources asked for; None where there is none."""
    estimate, resources = job.estimate, job.resources
    if resources.gpus and estimate.gpu_hours:
        return 3600 * estimate.gpu_hours / resources.gpus
    return 3600 * estimate.cpu_hours / (resources.cpus * resources.nodes) if estimate.cpu_hours else None


def by_metrics(evidence: Evidence, started_at: float, now: float) -> float | None:
    """Steps left at this attempt's own speed; None without a metrics line of this attempt."""
    last = last_metrics(evidence)
    begun_at = evidence.last.start.checkpoint_step if evidence.last else -1
    try:
        step, total, written = float(last["step"]), float(last["total_steps"]), float(last["time"])
    except (KeyError, TypeError, ValueError):
        return None
    done = step - max(0, begun_at)
    if done <= 0 or written <= started_at:
        return None
    return max(0.0, (total - step) * (written - started_at) / done - (now - written))


def last_metrics(evidence: Evidence) -> Mapping[str, Any]:
    """The last whole line of metrics.jsonl; empty if there is none."""
    for line in reversed(read_tail(evidence.run.metrics, LAST_LINES_BYTES).splitlines()):
        try:
            content = json.loads(line)
        except ValueError:
            continue  # torn
        if isinstance(content, dict):
            return content
    return {}


def longest_chain(jobs: Sequence[Job], remaining: Mapping[str, float]) -> float:
    """The longest way through the graph, in seconds; `jobs` with parents before children."""
    ends: dict[str, float] = {}
    for job in jobs:
        start = max((ends[parent] for parent in job.parents), default=0.0)
        ends[job.key] = start + remaining.get(job.key, 0.0)
    return max(ends.values(), default=0.0)


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
