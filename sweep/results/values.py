"""Values from JSON that others wrote: what is not of the expected type counts as absent."""

from typing import Any


def number(value: Any) -> float | None:
    """A real number, NaN and Inf too (a diverged loss is worth showing); None for all else, also for booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isinstance(value, float) or abs(value) < 2**1000 else None


def whole(value: Any) -> int | None:
    """An integer that 64 bits hold, also one written as 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if fits else None


def pairs(value: Any) -> list[tuple[str, str]] | None:
    """A JSON object's entries as text, ordered by name; None if it is no object."""
    if not isinstance(value, dict):
        return None
    return sorted((name, str(entry)) for name, entry in value.items())
