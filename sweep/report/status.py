"""The report of `sweep status`: as a mapping for `--json` (docs/json.md, section `status`), and as text from that."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.job import Job
from jobs.observation import ClusterState
from jobs.reconcile.attempts import find_log_path, read_tail
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import STOPPED, JobState
from jobs.store.records import read_record
from sweep.kept_limits import format_limit_lines
from sweep.phases import PHASES
from sweep.text_format import format_columns, format_counted, format_duration

# How long a sweep still takes on one machine: from what finished jobs took, scaled by their estimates.

METRICS_TAIL_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class TimeToEnd:
    """`seconds` None: not known yet. `basis`: what the number is based on, for people."""

    seconds: float | None
    basis: str


def estimate_time_to_end(snapshot: SweepSnapshot, now: float) -> TimeToEnd:
    """Time to the end of all jobs that are not stopped, if as many run at once as do now, one at least.

    The longer of two lower bounds: all remaining work over the jobs at once, and the longest chain.
    `now`: Unix seconds.
    """
    pace = compute_pace(snapshot)
    remaining: dict[str, float] = {}
    for job in snapshot.jobs:
        state = snapshot.statuses[job.key].state
        if state is JobState.DONE or state in STOPPED:
            continue
        seconds = estimate_remaining_seconds(job, snapshot.runs[job.key], state, pace, now)
        if seconds is None:
            return TimeToEnd(None, "no job of this kind has finished yet")
        remaining[job.key] = seconds
    at_once = max(1, len(snapshot.select_in_state({JobState.RUNNING})))
    bound = max(sum(remaining.values()) / at_once, compute_longest_chain(snapshot.jobs, remaining))
    return TimeToEnd(
        bound,
        f"{at_once} at once; durations of finished jobs" if pace else f"{at_once} at once; estimates",
    )


def compute_pace(snapshot: SweepSnapshot) -> dict[str, float]:
    """Seconds of finished jobs for one unit of `compute_work`, by phase; under "" that of all phases together."""
    seconds: dict[str, float] = {}
    work: dict[str, float] = {}
    for job in snapshot.jobs:
        result = snapshot.runs[job.key].result
        took = result.get("seconds") if result else None
        if not isinstance(took, int | float) or took <= 0:
            continue
        for phase in (job.phase, ""):
            seconds[phase] = seconds.get(phase, 0.0) + took
            work[phase] = work.get(phase, 0.0) + compute_work(job)
    return {phase: seconds[phase] / work[phase] for phase in seconds}


def compute_work(job: Job) -> float:
    """A job's size in a unit that is the same for all jobs: the plan's seconds, which know how fast a model is and on
    how many GPUs; FLOPs where it has no seconds, and 1 where nothing is estimated."""
    return compute_planned_seconds(job) or (job.estimate.flops + job.estimate.encoder_flops) or 1.0


def estimate_remaining_seconds(
    job: Job, evidence: RunStatus, state: JobState, pace: Mapping[str, float], now: float
) -> float | None:
    """What the job still takes; a running one by its own last metrics line where it has one."""
    if state is JobState.RUNNING and evidence.last is not None:
        seconds = estimate_from_metrics(evidence, evidence.last.start.started_at, now)
        if seconds is not None:
            return seconds
    whole = compute_planned_seconds(job)
    if job.phase in pace or "" in pace:
        whole = pace.get(job.phase, pace.get("", 0.0)) * compute_work(job)
    if whole is None or state is not JobState.RUNNING or evidence.last is None:
        return whole
    return max(0.0, whole - (now - evidence.last.start.started_at))


def compute_planned_seconds(job: Job) -> float | None:
    """The estimate as wall seconds on the resources asked for; None where there is none."""
    estimate, resources = job.estimate, job.resources
    if resources.gpus and estimate.gpu_hours:
        return 3600 * estimate.gpu_hours / resources.gpus
    return 3600 * estimate.cpu_hours / (resources.cpus * resources.nodes) if estimate.cpu_hours else None


def estimate_from_metrics(evidence: RunStatus, started_at: float, now: float) -> float | None:
    """Steps left at this attempt's own speed; None without a metrics line of this attempt."""
    last = read_last_metrics(evidence)
    begun_at = evidence.last.start.checkpoint_step if evidence.last else -1
    try:
        step, total, written = float(last["step"]), float(last["total_steps"]), float(last["time"])
    except (KeyError, TypeError, ValueError):
        return None
    done = step - max(0, begun_at)
    if done <= 0 or written <= started_at:
        return None
    return max(0.0, (total - step) * (written - started_at) / done - (now - written))


def read_last_metrics(evidence: RunStatus) -> Mapping[str, Any]:
    """The last whole line of metrics.jsonl; empty if there is none."""
    for line in reversed(read_tail(evidence.run.metrics, METRICS_TAIL_BYTES).splitlines()):
        try:
            content = json.loads(line)
        except ValueError:
            continue  # half written
        if isinstance(content, dict):
            return content
    return {}


def compute_longest_chain(jobs: Sequence[Job], remaining: Mapping[str, float]) -> float:
    """The longest way through the graph, in seconds; `jobs` with parents before children."""
    ends: dict[str, float] = {}
    for job in jobs:
        start = max((ends[parent] for parent in job.parents), default=0.0)
        ends[job.key] = start + remaining.get(job.key, 0.0)
    return max(ends.values(), default=0.0)


BAR_WIDTH = 24
MAX_LISTED = 10
"""Running, failed and blocked jobs shown of each kind, unless all are asked for."""
TROUBLE_STATES = (JobState.FAILED, JobState.UNKNOWN, JobState.INTERRUPTED)


def build_status_json(sweep: str, snapshot: SweepSnapshot, now: float) -> dict[str, Any]:
    """The report as JSON types. `now`: Unix seconds."""
    eta = estimate_time_to_end(snapshot, now)
    return {
        "format": 1,
        "sweep": sweep,
        "jobs": len(snapshot.jobs),
        "states": count_states(snapshot, snapshot.jobs),
        "phases": {
            phase: count_states(snapshot, [job for job in snapshot.jobs if job.phase == phase])
            for phase in list_phases(snapshot)
        },
        "running": [
            build_running_row(job, snapshot.runs[job.key], now) for job in snapshot.select_in_state({JobState.RUNNING})
        ],
        "trouble": [
            row for job in snapshot.select_in_state(TROUBLE_STATES) if (row := build_trouble_row(job, snapshot, sweep))
        ],
        "blocked": build_blocked_rows(snapshot),
        "waits": build_waiting_rows(snapshot),
        "not_sent": build_unsent_rows(snapshot),
        "remarks": [*snapshot.remarks, *list_queue_remarks(snapshot, sweep)],
        "eta": build_eta_row(eta, snapshot),
    }


def list_phases(snapshot: SweepSnapshot) -> list[str]:
    """The phases that there are, in the order of the chain."""
    found = dict.fromkeys(job.phase for job in snapshot.jobs)
    return [phase for phase in dict.fromkeys([*PHASES, *found]) if phase in found]


def count_states(snapshot: SweepSnapshot, jobs: Sequence[Job]) -> dict[str, int]:
    """Every state with its number of jobs."""
    found = Counter(snapshot.statuses[job.key].state for job in jobs)
    return {state.value: found[state] for state in JobState}


def build_job_row(job: Job) -> dict[str, Any]:
    """What names a job."""
    return {"key": job.key, "phase": job.phase, "cells": list(job.cells)}


def build_running_row(job: Job, evidence: RunStatus, now: float) -> dict[str, Any]:
    """A live job with its progress, as far as its metrics show."""
    last = read_last_metrics(evidence)
    start = evidence.last.start if evidence.last else None
    return {
        **build_job_row(job),
        "attempt": start.attempt if start else "",
        "host": (start.node or start.host) if start else "",
        "pid": start.pid if start else None,
        "seconds": now - start.started_at if start else None,
        "step": last.get("step"),
        "total_steps": last.get("total_steps"),
        "loss": last.get("loss"),
    }


def build_trouble_row(job: Job, snapshot: SweepSnapshot, sweep: str) -> dict[str, Any] | None:
    """A job that failed, is unknown, or was interrupted for another reason than a request; else None."""
    evidence = snapshot.runs[job.key]
    state = snapshot.statuses[job.key].state
    last = evidence.last
    if state is JobState.UNKNOWN and job.key in snapshot.observed:
        return None  # `waits` has what the cluster says
    failure = last.failure if last and state is not JobState.UNKNOWN else None
    message = evidence.message
    if state is JobState.UNKNOWN and last is not None:
        message = (
            f"attempt {last.start.attempt} on {last.start.host} has no exit record, and it is not known here "
            f"whether it still runs; if it does not: `sweep resume {sweep}`"
        )
    if not message or (failure and not POLICIES[failure].listed):
        return None
    log = find_log_path(last, snapshot.store.locate_sweep(sweep)) if last else None
    return {
        **build_job_row(job),
        "state": state.value,
        "class": failure.value if failure else "",
        "message": message,
        "attempts": sum(outcome.began for outcome in evidence.outcomes),
        "log": str(log) if log and log.exists() else "",
    }


def build_blocked_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """Each blocking job with the number of jobs behind it."""
    behind = Counter(status.cause for status in snapshot.statuses.values() if status.state is JobState.BLOCKED)
    return [
        {**build_job_row(snapshot.by_key[cause]), "state": snapshot.statuses[cause].state.value, "behind": number}
        for cause, number in behind.most_common()
    ]


def build_waiting_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """What queued jobs wait for and why others are unknown, in the cluster's words; the commonest first."""
    found = Counter(
        (snapshot.statuses[key].state.value, seen.message)
        for key, seen in snapshot.observed.items()
        if seen.message and snapshot.statuses[key].state in {JobState.RUNNING, JobState.QUEUED, JobState.UNKNOWN}
    )
    return [{"state": state, "message": message, "jobs": number} for (state, message), number in found.most_common()]


UNSENT_STATES = (JobState.READY, JobState.INTERRUPTED, JobState.WAITING)


def build_unsent_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """Why the last round on Slurm did not send jobs that could go, by reason; nothing without such a round."""
    kept = read_record(snapshot.store.locate_sweep(snapshot.sweep).last_round) or {}
    refused = kept.get("refused")
    found = Counter(
        reason
        for key, reason in (refused.items() if isinstance(refused, dict) else ())
        if key in snapshot.statuses and snapshot.statuses[key].state in UNSENT_STATES
    )
    return [{"message": str(reason), "jobs": number} for reason, number in found.most_common()]


def list_queue_remarks(snapshot: SweepSnapshot, sweep: str) -> list[str]:
    """What was to leave Slurm's queue and is still in it."""
    waiting = {ClusterState.QUEUED, ClusterState.STUCK}
    left = Counter(
        snapshot.statuses[key].state.value
        for key, seen in snapshot.observed.items()
        if seen.state in waiting and snapshot.statuses[key].state in STOPPED
    )
    return [
        f"{format_counted(number, f'{state} job')} still in Slurm's queue; `sweep tick {sweep}` takes them out"
        for state, number in left.items()
    ]


def build_eta_row(eta: TimeToEnd, snapshot: SweepSnapshot) -> dict[str, Any]:
    """Seconds to the end, where something runs or is to run."""
    open_jobs = any(
        status.state not in {JobState.DONE, JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED}
        for status in snapshot.statuses.values()
    )
    held = sum(
        snapshot.statuses[key].state is JobState.QUEUED and seen.message.startswith(("held", "never"))
        for key, seen in snapshot.observed.items()
    )
    if held:
        waits = "is held and does not start by itself" if held == 1 else "are held and do not start by themselves"
        return {"seconds": None, "basis": f"{format_counted(held, 'job')} {waits}"}
    return {"seconds": eta.seconds if open_jobs else 0.0, "basis": eta.basis if open_jobs else "nothing is left to run"}


def format_status(report: Mapping[str, Any], *, show_all: bool) -> str:
    """The report for a reader, with no newline at the end."""
    limit = None if show_all else MAX_LISTED
    parts = [
        format_phase_table(report),
        format_section("running", [format_running_line(row) for row in report["running"]], limit),
        format_section(
            "trouble", [line for row in report["trouble"][:limit] for line in format_trouble_lines(row)], None
        ),
        format_section("blocked", [format_blocked_line(row) for row in report["blocked"]], limit),
        format_section("in the queue", [format_waiting_line(row) for row in report["waits"]], limit),
        format_section("not sent", [f"{row['jobs']:,} {row['message']}" for row in report["not_sent"]], limit),
        format_section("remarks", list(report["remarks"]), limit),
        format_section("limits", format_limit_lines(report["limits"]) if "limits" in report else [], None),
        format_eta_line(report),
    ]
    return "\n\n".join(part for part in parts if part)


def format_phase_table(report: Mapping[str, Any]) -> str:
    """A row a phase, a column a state that occurs, and a bar of what is done."""
    states = [state for state, number in report["states"].items() if number or state == "done"]
    head = [report["sweep"], "", "jobs", *states]
    phases = {**report["phases"], "all": report["states"]}
    rows = [
        [
            phase,
            format_bar(of["done"], sum(of.values())),
            f"{sum(of.values()):,}",
            *(f"{of[state]:,}" for state in states),
        ]
        for phase, of in phases.items()
    ]
    return "\n".join(format_columns([head, *rows], left=2, rules=(len(rows),)))


def format_bar(done: int, total: int) -> str:
    """`[######......]  50 %`, full only when all is done."""
    filled = BAR_WIDTH * done // total if total else 0
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {100 * done // total if total else 0:>3} %"


def format_section(title: str, lines: Sequence[str], limit: int | None) -> str:
    """A titled list, cut at `limit` with the number of what is left out; empty if there is nothing."""
    if not lines:
        return ""
    shown = list(lines[:limit])
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown):,} more (--all)")
    return "\n".join([title, *(f"  {line}" for line in shown)])


def format_running_line(row: Mapping[str, Any]) -> str:
    """Name, steps, loss, time."""
    parts = [format_job_name(row)]
    if row["step"] is not None and row["total_steps"]:
        parts.append(f"step {row['step']:,} of {row['total_steps']:,}")
    if isinstance(row["loss"], float):
        parts.append(f"loss {row['loss']:.3f}")
    if row["seconds"] is not None:
        parts.append(f"for {format_duration(row['seconds'] / 3600)}")
    return "  ".join(parts)


def format_trouble_lines(row: Mapping[str, Any]) -> list[str]:
    """What, why, and where to read more."""
    when = f"after {format_counted(row['attempts'], 'attempt')}" if row["attempts"] else "before it started"
    why = f"{row['class']}: {row['message']}" if row["class"] else row["message"]
    lines = [f"{format_job_name(row)}  {row['state']} {when}", f"  {why}"]
    return [*lines, f"  log: {row['log']}"] if row["log"] else lines


def format_blocked_line(row: Mapping[str, Any]) -> str:
    """How many jobs wait for which."""
    number = row["behind"]
    return f"{number:,} {'job waits' if number == 1 else 'jobs wait'} for {row['state']} {format_job_name(row)}"


def format_waiting_line(row: Mapping[str, Any]) -> str:
    """How many wait for what."""
    return f"{row['jobs']:,} {row['state']}: {row['message']}"


def format_job_name(row: Mapping[str, Any]) -> str:
    """Phase, first cell and key."""
    return " ".join([row["phase"], *row["cells"][:1], row["key"]])


def format_eta_line(report: Mapping[str, Any]) -> str:
    """`about 12 min left (...)`."""
    seconds, basis = report["eta"]["seconds"], report["eta"]["basis"]
    if seconds is None:
        return f"time left: not known yet ({basis})"
    return f"about {format_duration(seconds / 3600)} left ({basis})" if seconds else basis
