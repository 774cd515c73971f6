"""What a job that went first has shown, by its run folder: its first checkpoint with a sane loss, and memory and speed
as planned, or its end. A stage's own files are read (metrics.jsonl, checkpoints); nothing of a stage is imported.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from jobs.job import Job
from jobs.reconcile.canary import NOT_YET, CanaryLimits, HeldShape, Judgement, Verdict, find_held_shapes
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.store.reading import is_number, open_to_read, parse_object
from jobs.store.records import find_newest_checkpoint

GIB = 1 << 30
READ_BYTES = 1 << 20
"""Of a job's metrics, from their begin: about 3,000 lines."""
LEAST_LOSSES = 4
"""Of fewer lines nobody can say whether the loss falls."""
LOSS_SCATTER = 0.05
"""By which part a loss may rise from the first third of its lines to the last and still counts as falling."""
LEAST_LOST_S = 60.0
"""A job that takes so much longer than planned, all in all, is not slow: start-up and chance weigh more."""


# Why: docs/decisions.md, D228
def judge_job(job: Job, evidence: RunStatus, state: JobState, limits: CanaryLimits) -> Judgement:
    """What the job has shown of its shape. What failed behind a sound first checkpoint speaks for the shape all the
    same."""
    if not evidence.readable:
        return NOT_YET
    if not evidence.done and find_newest_checkpoint(evidence.run).step < 0:
        return (
            Judgement(Verdict.BROKEN, f"failed: {describe_failure(evidence)}") if state is JobState.FAILED else NOT_YET
        )
    problem = find_problem(job, read_first_metrics(evidence), limits)
    return Judgement(Verdict.BROKEN, problem) if problem else Judgement(Verdict.SOUND)


def describe_failure(evidence: RunStatus) -> str:
    """Class and message of the last attempt's end."""
    failure = evidence.last.failure if evidence.last else None
    return ": ".join(filter(None, (failure.value if failure else "", evidence.message))) or "no reason is known"


def read_first_metrics(evidence: RunStatus) -> list[Mapping[str, Any]]:
    """The first lines of metrics.jsonl; none where the stage writes no such file."""
    try:
        with open_to_read(evidence.run.metrics) as file:
            content = file.read(READ_BYTES)
    except OSError:
        return []
    lines: list[Mapping[str, Any]] = []
    for line in content.split(b"\n"):
        try:
            lines.append(parse_object(line))
        except ValueError:  # half written, or cut off
            continue
    return lines


def find_problem(job: Job, lines: Sequence[Mapping[str, Any]], limits: CanaryLimits) -> str:
    """What of the job's metrics is not as it should be, as the rest of a sentence; empty if nothing is."""
    return (
        find_loss_problem(lines, limits.loss)
        or find_memory_problem(job, lines, limits.memory_factor)
        or find_speed_problem(job, lines, limits.speed_factor)
    )


def find_loss_problem(lines: Sequence[Mapping[str, Any]], band: tuple[float, float] | None) -> str:
    """A loss that is not finite, or that neither falls nor lies in the band."""
    losses = [line["loss"] for line in lines if type(line.get("loss")) in {int, float}]
    bad = next((place for place, loss in enumerate(losses) if not is_number(loss)), -1)
    if bad >= 0:
        shown = f"{losses[bad]:g}" if isinstance(losses[bad], float) else "more than any number can be"
        return f"has a loss of {shown} in line {bad + 1} of its metrics"
    if not losses or (band is not None and band[0] <= losses[-1] <= band[1]):
        return ""
    third = math.ceil(len(losses) / 3)
    before, after = fmean(losses[:third]), fmean(losses[-third:])
    if len(losses) < LEAST_LOSSES or after <= before + LOSS_SCATTER * abs(before):
        return ""
    stated = f", and {band[0]:g} to {band[1]:g} is stated" if band is not None else ""
    return f"has a rising loss, from {before:.4g} to {after:.4g}{stated}"


def find_memory_problem(job: Job, lines: Sequence[Mapping[str, Any]], factor: float) -> str:
    """More memory than planned, by more than the factor."""
    estimate, on_gpus = job.estimate, job.resources.gpus > 0
    planned = (estimate.gpu_memory_bytes if on_gpus else estimate.host_memory_bytes) / GIB
    peak = max(
        (float(line["peak_memory_gib"]) for line in lines if is_number(line.get("peak_memory_gib"))), default=0.0
    )
    if not planned or peak <= factor * planned:
        return ""
    where = "on a GPU" if on_gpus else "of memory"
    return f"takes {peak:.1f} GiB {where}, and {planned:.1f} GiB are planned"


def find_speed_problem(job: Job, lines: Sequence[Mapping[str, Any]], factor: float) -> str:
    """Steps that take longer than planned, by more than the factor, and so that the whole job is noticeably longer."""
    known = [line for line in lines if is_number(line.get("time")) and is_number(line.get("step"))]
    # a median: pauses between attempts and a first step that compiles are no speed
    took = [
        (later["time"] - earlier["time"]) / (later["step"] - earlier["step"])
        for earlier, later in pairwise(known)
        if later["step"] > earlier["step"] and later["time"] > earlier["time"]
    ]
    total = known[-1].get("total_steps") if known else None
    first = known[-1].get("first_step", 0) if known else None
    if not took or not is_number(total) or not is_number(first) or not job.planned_seconds:
        return ""
    steps = float(total) - float(first)  # type: ignore[arg-type]  # numbers, as was just asked
    planned, measured = (job.planned_seconds / steps if steps > 0 else 0.0), median(took)
    if not planned or measured <= factor * planned or (measured - planned) * steps < LEAST_LOST_S:
        return ""
    return f"is {measured / planned:.1f} times as slow as planned: {measured:.3g} s a step, {planned:.3g} s planned"


@dataclass(slots=True)
class Canary:
    """The rule of one sweep: of each shape one job goes first. For a round, a runner or a report."""

    shapes: Mapping[str, str]
    """Of each job by key; without shapes that a person has released."""
    limits: CanaryLimits
    released: Collection[str] = ()
    """Keys of jobs that a person has released, each by itself."""
    _settled: dict[str, Judgement] = field(default_factory=dict)

    def find_held(self, snapshot: SweepSnapshot, order: Sequence[Job], wanted: Collection[str]) -> dict[str, HeldShape]:
        """By shape, what is held now. `order`: all jobs of the snapshot, in the order of sending."""
        return find_held_shapes(
            order,
            snapshot.statuses,
            self.shapes,
            lambda key: self._judge(snapshot, key),
            wanted=wanted,
            begun={key for key, run in snapshot.runs.items() if run.outcomes},
            released=self.released,
        )

    def _judge(self, snapshot: SweepSnapshot, key: str) -> Judgement:
        if (known := self._settled.get(key)) is not None:
            return known
        run, state = snapshot.runs[key], snapshot.statuses[key].state
        found = judge_job(snapshot.by_key[key], run, state, self.limits)
        if run.done or found.verdict is Verdict.SOUND:  # nothing of it changes any more
            self._settled[key] = found
        return found
