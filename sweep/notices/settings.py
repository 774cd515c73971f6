"""Who is told of what and when: the `notices` of a sweep file, as its plan keeps them, and of a user's own file."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs.store.reading import find_type_problem

KINDS = ("command", "webhook", "mail")
FORMS = ("json", "slack", "teams")
EVENTS = {
    "failed": "jobs failed for good; a person is needed",
    "held": "jobs in Slurm's queue do not start by themselves; a person is needed",
    "refused": "Slurm does not take jobs as they are: account, QOS, partition, request; a person is needed",
    "disk": "the file system refused: disk full, quota, no access; a person is needed",
    "stalled": "nothing moved for long, though something could",
    "budget": "80 % of a budget are spent, or it is at its end",
    "slipped": "the sweep ends later than was expected",
    "milestone": "a phase is done, or a share of the cells",
    "done": "all jobs are done",
}
"""Kinds of events, and what they say."""
QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
USER_FILE = "sweep/notices.yaml"
"""Below the user's folder of settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One way to somebody."""

    name: str
    kind: str
    """One of `KINDS`."""
    command: tuple[str, ...] = ()
    """Of a command: program and arguments. The event comes on its stdin."""
    url_variable: str = ""
    """Of a webhook: the environment variable with the address. It is never stored."""
    url_file: str = ""
    """Or the file that holds it, which nobody else may read."""
    form: str = "json"
    """One of `FORMS`."""
    to: tuple[str, ...] = ()
    """Of mail: addresses."""
    sendmail: str = "/usr/sbin/sendmail"
    events: tuple[str, ...] = ()
    """Kinds that it hears of; empty: all."""
    quiet: str = ""
    """Hours in which it hears nothing, such as 22:00-07:00, by the clock of the machine; it hears of it afterwards."""

    def is_told_of(self, kind: str) -> bool:
        return not self.events or kind in self.events

    def is_quiet(self, now: float) -> bool:
        """Whether it is to hear nothing at that moment (Unix seconds)."""
        match = QUIET.fullmatch(self.quiet)
        if match is None:
            return False
        begin, end = (int(match[n]) * 60 + int(match[n + 1]) for n in (1, 3))
        local = datetime.fromtimestamp(now).astimezone()
        minute = local.hour * 60 + local.minute
        return begin <= minute < end if begin <= end else minute >= begin or minute < end


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSettings:
    """All of it."""

    receivers: tuple[Receiver, ...] = ()
    stalled_hours: float = 6.0
    slipped_hours: float = 24.0
    cells: tuple[float, ...] = (25.0, 50.0, 75.0)
    """Milestones: percent of the cells."""

    def build_record(self) -> dict[str, Any]:
        """As a plan holds it."""
        return asdict(self)


def parse_notices(record: object) -> NoticeSettings | None:
    """The settings of a stored plan, None where it has none; fields of a later version are left out.

    Raises ValueError for settings that are none.
    """
    if record is None:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("receivers", []), list):
        raise ValueError("notices is no JSON object with a list of receivers")
    receivers = tuple(parse_receiver(each) for each in record.get("receivers", []))
    numbers = {name: record[name] for name in ("stalled_hours", "slipped_hours") if name in record}
    if isinstance(record.get("cells"), list):
        numbers["cells"] = tuple(record["cells"])
    if problem := find_type_problem(NoticeSettings, numbers):
        raise ValueError(f"notices: {problem}")
    return NoticeSettings(receivers=receivers, **numbers)


def parse_receiver(record: object) -> Receiver:
    """One receiver. ValueError."""
    if not isinstance(record, Mapping):
        raise ValueError("notices: a receiver is no JSON object")
    known: dict[str, Any] = {
        each.name: tuple(value) if isinstance(value := record[each.name], list) else value
        for each in fields(Receiver)
        if each.name in record
    }
    if problem := find_type_problem(Receiver, known):
        raise ValueError(f"notices: {problem}")
    if known.get("kind") not in KINDS or not isinstance(known.get("name"), str):
        raise ValueError(f"notices: kind of a receiver is {repr(known.get('kind'))[:60]}")
    return Receiver(**known)


def locate_user_file() -> Path:
    """The user's own settings: below $XDG_CONFIG_HOME, else ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - of a user without home, too
    return Path(base, USER_FILE)
