"""The log of a sweep's events: STORE/sweeps/NAME/notices, append-only, one file for each machine and user.

An event is in it once, under an identity that follows from what happened. Who was told of it stands behind it, and
what could not be told is tried again.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.processes import read_user_name
from jobs.store.ledger import list_ledger_files, render_host_name
from jobs.store.paths import append_durably
from jobs.store.reading import is_number, is_time, parse_object, read_file

FIRST_PAUSE_SECONDS = 60.0
"""Before a receiver that failed is tried again; twice as long after each further failure."""
LONGEST_PAUSE_SECONDS = 6 * 3600.0
MOST_LETTERS = 300
"""Of a line that others wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeEvent:
    """Something that people are told, once."""

    id: str
    """Of the event, on whatever machine it is found: a receiver that hears it twice can tell."""
    kind: str
    """One of `settings.EVENTS`."""
    title: str
    """One line."""
    lines: tuple[str, ...] = ()
    """More, for whoever wants it."""
    step: str = ""
    """The command to type next."""
    members: tuple[str, ...] = ()
    """Identities of all that it tells of at once."""
    time: float = 0.0
    """Unix seconds at which it was found."""


@dataclass(slots=True)
class ReceiverRecord:
    """What became of one receiver."""

    told: set[str] = field(default_factory=set)
    """Ids of events."""
    told_at: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    """Since it last took something."""
    failed_at: float = 0.0
    problem: str = ""
    """Of the last failure."""

    def find_next_try(self) -> float:
        """Unix seconds from which it may be tried again; 0: at any time."""
        if not self.failures:
            return 0.0
        return self.failed_at + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(20, self.failures - 1))


@dataclass(slots=True)
class NoticeHistory:
    """What the log says."""

    events: dict[str, NoticeEvent] = field(default_factory=dict)
    """By id, in the order in which they were found."""
    receivers: dict[str, ReceiverRecord] = field(default_factory=dict)
    seen: tuple[str, float] = ("", 0.0)
    """What the jobs' states came to when they last changed, and when that was seen."""
    expected_end: float = 0.0
    """Unix seconds, against which a later end is measured; 0: none yet."""

    @property
    def members(self) -> set[str]:
        """Identities that were told of, or are to be."""
        return {member for event in self.events.values() for member in event.members}

    def get_receiver(self, name: str) -> ReceiverRecord:
        return self.receivers.setdefault(name, ReceiverRecord())


# Why: docs/decisions.md, D235
class NoticeLog:
    """The log of one sweep. Whoever writes holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        user = re.sub(r"[^A-Za-z0-9.-]", "-", read_user_name())[:60]
        self.path = folder / f"n-{render_host_name()}-{user}.jsonl"

    def read(self) -> NoticeHistory:
        """What all writers wrote. Torn lines and those of later versions are passed over."""
        history = NoticeHistory()
        lines = [line for path in list_ledger_files(self.folder) for line in read_records(path)]
        # the order of one file is that of its writer; between writers times of whole passes decide
        for line in sorted(lines, key=lambda record: record["time"]):
            take_record(history, line)
        return history

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """The records are on disk when it returns. A line that a dead writer left torn is ended first."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        if text:
            append_durably(self.path, ("\n" if is_torn(self.path) else "") + text)

    def append_events(self, events: Sequence[NoticeEvent]) -> None:
        """Events that are to be told."""
        self.append({"notice": "event", **asdict(event)} for event in events)

    def append_told(self, event: NoticeEvent, receiver: str, now: float) -> None:
        """The receiver took it."""
        self.append([{"notice": "told", "id": event.id, "receiver": receiver, "time": now}])

    def append_failed(self, event: NoticeEvent, receiver: str, problem: str, now: float) -> None:
        """The receiver did not take it, or it is not known whether it did."""
        told = problem[:MOST_LETTERS]
        self.append([{"notice": "failed", "id": event.id, "receiver": receiver, "problem": told, "time": now}])


def is_torn(path: Path) -> bool:
    """Whether the file does not end with a line's end."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return False
    return bool(content) and not content.endswith(b"\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that are records with a time."""
    found = []
    for line in read_file(path).splitlines():
        try:
            record = parse_object(line)
        except ValueError:
            continue
        if isinstance(record.get("notice"), str) and is_time(record.get("time")):
            found.append(record)
    return found


def take_record(history: NoticeHistory, record: Mapping[str, Any]) -> None:
    """Adds what one line says."""
    what, event_id, moment = record["notice"], str(record.get("id", "")), float(record["time"])
    if what == "event" and event_id not in history.events:
        history.events[event_id] = NoticeEvent(
            id=event_id,
            kind=str(record.get("kind", "")),
            title=str(record.get("title", "")),
            lines=parse_texts(record.get("lines")),
            step=str(record.get("step", "")),
            members=parse_texts(record.get("members")),
            time=moment,
        )
    elif what == "told":
        receiver = history.get_receiver(str(record.get("receiver", "")))
        receiver.told.add(event_id)
        receiver.told_at.setdefault(event_id, moment)
        receiver.failures, receiver.problem = 0, ""
    elif what == "failed":
        receiver = history.get_receiver(str(record.get("receiver", "")))
        receiver.failures += 1
        receiver.failed_at, receiver.problem = moment, str(record.get("problem", ""))
    elif what == "seen":
        history.seen = (str(record.get("signature", "")), moment)
    elif what == "expected" and is_number(record.get("end")):
        history.expected_end = float(record["end"])


def parse_texts(value: object) -> tuple[str, ...]:
    """A list of texts; empty for anything else."""
    return tuple(str(each) for each in value) if isinstance(value, list) else ()
