"""Slurm's usual patience, with what the environment changes."""

from jobs.slurm.timeouts import VARIABLE, Patience
from sweep.errors import UsageError


def patience_from_environment() -> Patience:
    """Raises UsageError."""
    try:
        return Patience.from_environment()
    except ValueError as error:
        raise UsageError(f"{error}; unset {VARIABLE} or correct it") from None
