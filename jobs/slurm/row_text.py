"""Reads lines of fields parted by the unit separator, as squeue and sacct are asked to print them. Names come last."""

from collections.abc import Iterator
from datetime import UTC, datetime

SEPARATOR = "\x1f"
"""No name of ours holds it; a foreign job's name may hold anything, and comes last so that it harms no other field."""

NOTHING = {"", "Unknown", "None", "N/A", "NONE", "(null)", "None assigned"}
"""How the programs say that there is no value."""


def split_rows(text: str, fields: int) -> Iterator[list[str]]:
    """The lines of `text`, split into `fields` each. A line with fewer goes on a foreign name with a line break in it,
    or is a remark of a site's wrapper: neither is a row."""
    cuts = fields - 1
    for line in text.split("\n"):
        parts = line.split(SEPARATOR, cuts)
        if len(parts) == fields:
            yield parts


def is_whole(text: str) -> bool:
    """Whether the last line was printed to its end."""
    return not text or text.endswith("\n")


def seconds(text: str) -> float:
    """Unix seconds of a time as printed with SLURM_TIME_FORMAT=%s, else of `2026-01-31T12:00:00` in UTC; 0 for none."""
    if text.isdecimal():
        return float(text)
    if text in NOTHING:
        return 0.0
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def value(text: str) -> str:
    """The field itself, or nothing where the program says in some word that there is nothing."""
    return "" if text in NOTHING else text


def number(text: str) -> int:
    """A whole number; 0 where there is none."""
    return int(text) if text.isdecimal() else 0
