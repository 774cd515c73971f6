"""What an examination of a machine or a cluster finds: one line each, with what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing stops."""
    PROBLEM = "problem"
    """Jobs could not run, or could lose work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""
    """What to do; empty where nothing needs doing."""


def ok(name: str, text: str) -> Check:
    """All is well."""
    return Check(name=name, verdict=Verdict.OK, text=text)


def note(name: str, text: str, advice: str = "") -> Check:
    """Worth knowing."""
    return Check(name=name, verdict=Verdict.NOTE, text=text, advice=advice)


def problem(name: str, text: str, advice: str) -> Check:
    """Has to be put right."""
    return Check(name=name, verdict=Verdict.PROBLEM, text=text, advice=advice)
