"""Hours that attempts took, split into work that was kept and work that no checkpoint kept."""

from dataclasses import dataclass

from jobs.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Usage:
    """Wall seconds, and hours of all cores and of all GPUs together."""

    seconds: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.seconds + other.seconds, self.cpu_hours + other.cpu_hours, self.gpu_hours + other.gpu_hours)


def used(outcome: Outcome) -> Usage:
    """Up to the attempt's last checkpoint, or all of it where it finished the job; nothing while it lives."""
    return _usage(outcome, _kept_seconds(outcome))


def wasted(outcome: Outcome) -> Usage:
    """From the attempt's last checkpoint to its end."""
    if outcome.end is None:
        return Usage()
    return _usage(outcome, outcome.end.ended_at - outcome.start.started_at - _kept_seconds(outcome))


def _kept_seconds(outcome: Outcome) -> float:
    start, end = outcome.start, outcome.end
    if end is None:
        return 0.0
    kept_until = end.ended_at if end.failure is None else max(end.checkpoint_at, start.started_at)
    return max(0.0, min(kept_until, end.ended_at) - start.started_at)


def _usage(outcome: Outcome, seconds: float) -> Usage:
    hours = max(0.0, seconds) / 3600
    return Usage(max(0.0, seconds), hours * outcome.start.cpus, hours * outcome.start.gpus)
