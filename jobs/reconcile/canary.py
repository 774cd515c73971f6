"""Of each shape of job one goes first: which job that is, and which others are held until it has shown that the shape
can run.

A shape is what jobs have in common that fail alike: program, model, kinds of data, placement, resources. A held job is
not sent; nothing else is done to it, and the next round looks again. Pure: states and judgements in, holds out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.job import Job
from jobs.reconcile.state import JobState, JobStatus


class Verdict(StrEnum):
    """What a job has shown of its shape."""

    PENDING = "pending"
    """Nothing yet."""
    SOUND = "sound"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one job that has begun; `reason`: of a broken one, the rest of a sentence about it (`failed: ...`)."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryLimits:
    """What a job that goes first must keep to."""

    loss: tuple[float, float] | None = None
    """A loss that does not fall is sane between these two."""
    memory_factor: float = 1.25
    """Of the memory that the plan expects, its reserve included."""
    speed_factor: float = 3.0
    """Of the seconds that the plan expects a step to take."""


NOT_YET = Judgement(Verdict.PENDING)
BEGUN = {JobState.DONE, JobState.RUNNING, JobState.FAILED, JobState.INTERRUPTED, JobState.UNKNOWN}
"""States in which a job may have shown something."""
IN_FLIGHT = {JobState.RUNNING, JobState.QUEUED, JobState.UNKNOWN}
STARTABLE = {JobState.READY, JobState.INTERRUPTED}
HOLDABLE = {*STARTABLE, JobState.WAITING}
MOST_DONE_JUDGED = 5
"""Finished jobs of a shape that are looked at: where none of them is sound, no other will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldShape:
    """A shape whose jobs are held, all but those that go first."""

    shape: str
    canary: str
    """Key of the job that goes first, or has; empty where none of the shape can start yet."""
    verdict: Verdict
    reason: str = ""
    """Why the shape is broken, the rest of a sentence about its first job."""
    held: tuple[str, ...] = ()
    """Keys of the others, in the order of sending."""


# Why: docs/decisions.md, D227
def find_held_shapes(
    order: Sequence[Job],
    statuses: Mapping[str, JobStatus],
    shapes: Mapping[str, str],
    judge: Callable[[str], Judgement],
    *,
    wanted: Collection[str],
    begun: Collection[str] = (),
    released: Collection[str] = (),
) -> dict[str, HeldShape]:
    """By shape, what is held now; nothing of a shape of which one job is sound.

    `order`: all jobs, in the order in which they would be sent. `shapes`: by key; a job without one is free. `judge` is
    asked about jobs that have begun alone, and about no more of them than are needed. `wanted`: keys that may be sent.
    `begun`: keys of jobs that have an attempt; of those that can start, these go before the others. `released`: keys of
    jobs that are not held, and that show what their shape is like all the same.

    Only a job that can start now goes first: one that waits for its parents could keep a ready one waiting for days.
    """
    by_shape: dict[str, list[str]] = {}
    for job in order:
        if job.key in shapes:
            by_shape.setdefault(shapes[job.key], []).append(job.key)
    found: dict[str, HeldShape] = {}
    for shape, keys in by_shape.items():
        states = {key: statuses[key].state for key in keys}
        if not any(state in HOLDABLE for state in states.values()):
            continue
        broken = _find_broken(states, judge)
        if broken is None:
            continue
        canary = next(iter(broken), "") or next((key for key in keys if states[key] in IN_FLIGHT), "")
        canary = canary or _choose(states, wanted, begun, released)
        spared = {canary, *broken}
        held = [key for key in keys if states[key] in HOLDABLE and key in wanted and key not in spared]
        found[shape] = HeldShape(
            shape=shape,
            canary=canary,
            verdict=Verdict.BROKEN if broken else Verdict.PENDING,
            reason=broken.get(canary, ""),
            held=tuple(key for key in held if key not in released),
        )
    return found


def _find_broken(states: Mapping[str, JobState], judge: Callable[[str], Judgement]) -> dict[str, str] | None:
    """Jobs of one shape that speak against it, with their reasons; None where one speaks for it."""
    broken: dict[str, str] = {}
    for key in _select_evidence(states):
        judgement = judge(key)
        if judgement.verdict is Verdict.SOUND:
            return None
        if judgement.verdict is Verdict.BROKEN:
            broken[key] = judgement.reason
    return broken


def _select_evidence(states: Mapping[str, JobState]) -> list[str]:
    """Those that failed last: one sound job frees the shape, whatever became of others."""
    done = [key for key, state in states.items() if state is JobState.DONE][:MOST_DONE_JUDGED]
    begun = [key for key, state in states.items() if state in BEGUN and state is not JobState.DONE]
    return [*done, *sorted(begun, key=lambda key: states[key] is JobState.FAILED)]


def _choose(
    states: Mapping[str, JobState], wanted: Collection[str], begun: Collection[str], released: Collection[str]
) -> str:
    """The job that goes first, where none has; empty if none can start. A released one goes in any case."""
    startable = [key for key, state in states.items() if state in STARTABLE and key in wanted]
    return min(startable, key=lambda key: (key not in released, key not in begun), default="")


def list_held_keys(held: Mapping[str, HeldShape]) -> set[str]:
    """All that are not to be sent."""
    return {key for each in held.values() for key in each.held}
