"""How long a sweep still takes on one machine: from what finished jobs took, scaled by their estimates."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.facts import Evidence
from jobs.job import Job
from jobs.reconcile.attempts import read_tail
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import STOPPED, State

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
