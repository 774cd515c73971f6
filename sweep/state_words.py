"""What the states of a job mean, for people: `sweep status --help` and docs/glossary.md have them from here."""

from collections.abc import Mapping

STATE_MEANINGS: Mapping[str, str] = {
    "done": "a valid result is on disk; it is never run again",
    "running": "a process of it lives, here or on the cluster",
    "queued": "the runner or Slurm has it; it waits for a free slot",
    "ready": "it could start now; `sweep submit` starts it",
    "waiting": "a job that it builds on is not done yet",
    "interrupted": "it was stopped; `sweep submit` goes on from its checkpoint",
    "failed": "its attempts are used up; `sweep resume` gives it new ones",
    "blocked": "a job that it builds on has failed or was cancelled",
    "cancelled": "a person took it out; `sweep resume` puts it back",
    "unknown": "nobody can say yet whether it runs; it is not started until that is known",
}
"""In the order of the table of `sweep status`. A job is in one state at a time."""


def format_legend() -> str:
    """A line a state."""
    width = max(map(len, STATE_MEANINGS))
    return "\n".join(f"  {state.ljust(width)}  {meaning}" for state, meaning in STATE_MEANINGS.items())
