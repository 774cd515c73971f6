"""The ledger: what each writer intended and saw, in one append-only JSONL file per writer. A hint, never the truth.

Without it no work is lost or repeated: results, attempts and locks say what is done and what lives. Only cancellations
and the new budgets of `sweep resume` would be forgotten.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.paths import SAFE_NAME
from jobs.store.reading import is_time, parse_object, read_anew, read_file
from jobs.store.records import FailureClass, parse_failure_class

logger = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What happened."""

    INTENT = "intent"
    """The writer is about to hand the job to a cluster."""
    STARTED = "started"
    ENDED = "ended"
    CANCELLED = "cancelled"
    """A person asks that the job is taken out until it is resumed. A wish: what became of it say the cluster's queue,
    its accounting and the attempts' records."""
    RESUMED = "resumed"
    """A person gives the job a new budget, which also undoes a cancellation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the ledger."""

    event: EventKind
    key: str
    time: float = field(default_factory=SYSTEM_CLOCK.now)
    """Unix seconds."""
    attempt: str = ""
    id: str = ""
    """The cluster's id of the attempt."""
    failure: FailureClass | None = None
    by: str = ""
    """The user who asks, of a cancellation or a resumption; empty in ledgers of earlier versions."""


class Ledger:
    """One writer's file in a sweep's ledger folder, created at the first event."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.folder = folder
        self.writer = build_writer_name(clock.now())
        self._torn = False

    def append(self, events: Iterable[Event]) -> None:
        """The events are on disk when it returns. Raises OSError if the store refuses the write."""
        self.write(_content(event) for event in events)

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Appends lines whose first field names their kind; they are on disk when it returns."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if not lines:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        torn, self._torn = self._torn, True
        with (self.folder / f"{self.writer}.jsonl").open("a", encoding="utf-8") as file:
            # After a write that did not fit, begin on a new line.
            file.write("\n" * torn + lines)
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        logger.info("%s: %d lines written", self.folder / f"{self.writer}.jsonl", lines.count("\n"))
        logger.debug("%s", lines)


def build_writer_name(moment: float) -> str:
    """Unique to this process and moment (Unix seconds): host, pid, milliseconds."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", os.uname().nodename) or "host"
    return f"w-{host[:60]}-{os.getpid()}-{int(moment * 1000)}"


def list_ledger_files(folder: Path) -> list[Path]:
    """Every writer's file; none if there is no folder. Raises OSError.

    A folder that may not be read is no empty one (`Path.glob` takes it for that): all jobs would be sent again.
    """
    try:
        names = read_anew(lambda: os.listdir(folder))  # noqa: PTH208 - pathlib's lists are made step by step
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if name.endswith(".jsonl")]


def read_events(folder: Path, writer: str | None = None) -> list[Event]:
    """The events of all writers, or of one, oldest first. Torn and unknown lines are skipped."""
    names = list_ledger_files(folder) if writer is None else [folder / f"{writer}.jsonl"]
    events = [event for path in names for event in _file_events(path)]
    return sorted(events, key=lambda event: event.time)


def _content(event: Event) -> dict[str, object]:
    return {name: value for name, value in asdict(event).items() if value not in ("", None)}


def _file_events(path: Path) -> Iterable[Event]:
    for line in read_lines_of_kind(path, "event"):
        event = _parse_event(line)
        if event is not None:
            yield event


def has_batches(folder: Path) -> bool:
    """Whether jobs of this sweep were ever handed to Slurm (`jobs.slurm.batch_ledger`)."""
    return any(next(_iter_lines_of_kind(path, "batch"), None) for path in list_ledger_files(folder))


def is_withdrawn(folder: Path, batch: str, key: str) -> bool:
    """Whether this job of this batch was taken out of Slurm's queue by us, and did not stay there all the same.

    Every attempt asks at its start, so little is parsed. The lines are those of `jobs.slurm.batch_ledger`.
    """
    name, last = json.dumps(batch).encode(), (float("-inf"), "")
    lines = [line for path in list_ledger_files(folder) for line in read_lines_of_kind(path, "batch") if name in line]
    for line in lines:
        try:
            content = parse_object(line)
            if content["batch"] == batch and content["what"] in {"withdrawn", "kept"} and key in content["keys"]:
                last = max(last, (float(content["time"]), str(content["what"])), key=lambda pair: pair[0])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # torn
    return last[1] == "withdrawn"


def read_lines_of_kind(path: Path, kind: str) -> list[bytes]:
    """Lines of one writer's file that begin with the field `kind`. The last of them may be torn."""
    return list(_iter_lines_of_kind(path, kind))


def _iter_lines_of_kind(path: Path, kind: str) -> Iterator[bytes]:
    """Most lines are of other kinds: they are searched through, not cut apart."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return
    beginning = f'{{"{kind}":'.encode()
    start = 0 if content.startswith(beginning) else content.find(b"\n" + beginning) + 1
    while start or content.startswith(beginning):
        end = content.find(b"\n", start)
        if end < 0:
            yield content[start:]
            return
        yield content[start:end]
        start = end + 1 if content.startswith(beginning, end + 1) else content.find(b"\n" + beginning, end) + 1
        if not start:
            return


def _parse_event(line: bytes) -> Event | None:
    try:
        content = parse_object(line)
        if not is_time(content["time"]) or not SAFE_NAME.fullmatch(str(content["key"])):
            return None
        return Event(
            event=EventKind(content["event"]),
            key=str(content["key"]),
            time=float(content["time"]),
            attempt=str(content.get("attempt", "")),
            id=str(content.get("id", "")),
            failure=parse_failure_class(content["failure"]) if content.get("failure") else None,
            by=str(content.get("by", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class UserRequests:
    """What people asked for, read from the ledger."""

    cancelled: Mapping[str, Event] = field(default_factory=dict)
    """By key, the last wish that the job is cancelled."""
    resumed_at: dict[str, float] = field(default_factory=dict)
    """Key to Unix seconds: attempts that began earlier no longer count against the job's budgets."""


def collect_user_requests(events: Iterable[Event]) -> UserRequests:
    """The last event of each key counts; `events` oldest first."""
    cancelled: dict[str, Event] = {}
    resumed_at: dict[str, float] = {}
    for event in events:
        if event.event is EventKind.CANCELLED:
            cancelled[event.key] = event
        elif event.event is EventKind.RESUMED:
            cancelled.pop(event.key, None)
            resumed_at[event.key] = event.time
    return UserRequests(cancelled, resumed_at)
