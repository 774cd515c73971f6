"""The ledger: what each writer intended and saw, in one append-only JSONL file per writer. A hint, never the truth.

Without it no work is lost or repeated: results, attempts and locks say what is done and what lives. Only cancellations
and the new budgets of `sweep resume` would be forgotten.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.store.order import LARGEST, parse_order, sort_by_order
from jobs.store.paths import SAFE_NAME, append_durably
from jobs.store.reading import is_time, name_file, open_to_read, parse_object, read_anew, read_file
from jobs.store.records import FailureClass, parse_failure

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


WISHES = frozenset({EventKind.CANCELLED, EventKind.RESUMED})
STEP_SECONDS = 0.001
ORDER = re.compile(rb'"order": (\d{1,15})\b')


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
    order: int = 0
    """Of a cancellation or a resumption: its number, more than that of any which its writer saw. 0: an earlier version
    wrote it."""
    attempts: tuple[str, ...] | None = None
    """Of a resumption: the attempts that count no longer. None: an earlier version wrote it, and its time says."""
    batches: tuple[str, ...] = ()
    """Of a resumption: the batches that the job had been sent in. What they came to counts no longer."""


class Ledger:
    """One writer's file in a sweep's ledger folder, created at the first event."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self.folder = folder
        self.writer = build_writer_name(clock.now())
        self._torn = False

    def append(self, events: Iterable[Event]) -> None:
        """The events are on disk when it returns. Raises OSError if the store refuses the write."""
        self.write(_content(event) for event in events)

    def append_wishes(self, wishes: Iterable[Event]) -> None:
        """Cancellations and resumptions, behind all wishes that are in the sweep's ledger. They are on disk when it
        returns."""
        wishes = list(wishes)
        if not wishes:
            return
        number = find_next_order(self.folder)
        newest = max((event.time for event in read_events(self.folder) if event.event in WISHES), default=0.0)
        # Versions that know no numbers go by the time, so it is never before that of a wish which this one follows.
        self.append(replace(wish, order=number, time=max(wish.time, newest + STEP_SECONDS)) for wish in wishes)

    def write(self, records: Iterable[Mapping[str, object]]) -> None:
        """Appends lines whose first field names their kind; they are on disk when it returns."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if not lines:
            return
        torn, self._torn = self._torn, True
        # After a write that did not fit, begin on a new line.
        append_durably(self.folder / f"{self.writer}.jsonl", "\n" * torn + lines)
        self._torn = False
        logger.info("%s: %d lines written", self.folder / f"{self.writer}.jsonl", lines.count("\n"))
        logger.debug("%s", lines)


def build_writer_name(moment: float) -> str:
    """Unique to this process and moment (Unix seconds): host, pid, milliseconds."""
    return f"w-{render_host_name()}-{os.getpid()}-{int(moment * 1000)}"


def render_host_name() -> str:
    """This machine, as writers' names have it."""
    return (re.sub(r"[^A-Za-z0-9.-]", "-", os.uname().nodename) or "host")[:60]


def list_ledger_files(folder: Path) -> list[Path]:
    """Every writer's file; none if there is no folder. Raises OSError.

    A folder that may not be read is no empty one (`Path.glob` takes it for that): all jobs would be sent again.
    """
    try:
        names = read_anew(lambda: os.listdir(folder))  # noqa: PTH208 - pathlib's lists are made step by step
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if name.endswith(".jsonl")]


def find_next_order(folder: Path) -> int:
    """One more than any number in the sweep's ledger, on whatever machine it was written. Raises OSError."""
    found = (int(number) for path in list_ledger_files(folder) for number in ORDER.findall(read_file(path)))
    return min(max(found, default=0) + 1, LARGEST)


def read_events(folder: Path, writer: str | None = None) -> list[Event]:
    """The events of all writers, or of one; those of each writer in its order. Torn and unknown lines are skipped."""
    names = list_ledger_files(folder) if writer is None else [folder / f"{writer}.jsonl"]
    return [event for path in names for event in _file_events(path)]


def _content(event: Event) -> dict[str, object]:
    known = asdict(event)
    unsaid = {
        name for name, value in known.items() if value in ("", None) or (name in {"order", "batches"} and not value)
    }
    return {name: value for name, value in known.items() if name not in unsaid}


def _file_events(path: Path) -> Iterable[Event]:
    for line in read_lines_of_kind(path, "event"):
        event = _parse_event(line)
        if event is not None:
            yield event


def has_batches(folder: Path) -> bool:
    """Whether jobs of this sweep were ever handed to Slurm (`jobs.slurm.batch_ledger`)."""

    def has_batch(path: Path) -> bool:
        return read_anew(lambda: any(True for _ in _iter_lines_of_kind(path, "batch")))

    return any(map(has_batch, list_ledger_files(folder)))


def is_withdrawn(folder: Path, batch: str, key: str) -> bool:
    """Whether this job of this batch was taken out of Slurm's queue by us, and did not stay there all the same.

    Every attempt asks at its start, so little is parsed. The lines are those of `jobs.slurm.batch_ledger`.
    """
    name = json.dumps(batch).encode()
    found: list[tuple[int, float, str]] = []
    lines = [line for path in list_ledger_files(folder) for line in read_lines_of_kind(path, "batch") if name in line]
    for line in lines:
        try:
            content = parse_object(line)
            if content["batch"] == batch and content["what"] in {"withdrawn", "kept"} and key in content["keys"]:
                found.append((parse_order(content.get("order")), float(content["time"]), str(content["what"])))
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # torn
    ordered = sort_by_order(found, lambda entry: (entry[0], entry[1]))
    return bool(ordered) and ordered[-1][2] == "withdrawn"


def read_lines_of_kind(path: Path, kind: str) -> list[bytes]:
    """Lines of one writer's file that begin with the field `kind`. The last of them may be torn."""
    return read_anew(lambda: list(_iter_lines_of_kind(path, kind)))


def _iter_lines_of_kind(path: Path, kind: str) -> Iterator[bytes]:
    """Line by line: a large sweep's file as a whole would stand in memory beside the lines that are kept of it."""
    beginning = f'{{"{kind}":'.encode()
    try:
        with open_to_read(path) as file:
            for line in file:
                if line.startswith(beginning):
                    yield line.removesuffix(b"\n")
                if not line.endswith(b"\n"):
                    return  # what a writer appends at this moment is no line of its own
    except FileNotFoundError:
        return
    except OSError as error:
        raise name_file(error, path) from None


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
            failure=parse_failure(content.get("failure")),
            by=str(content.get("by", "")),
            order=parse_order(content.get("order")),
            attempts=_parse_names(content["attempts"]) if "attempts" in content else None,
            batches=_parse_names(content.get("batches", [])),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _parse_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("no list of names")
    return tuple(str(each) for each in value)


@dataclass(frozen=True, slots=True)
class Resumption:
    """What all `sweep resume` of one job together say."""

    asked_at: float = 0.0
    """Unix seconds, by the clock of whoever asked last. For people to read."""
    attempts: frozenset[str] = frozenset()
    """Attempts that count no longer against the job's budgets."""
    batches: frozenset[str] = frozenset()
    """Batches that a person calls over: nothing of them counts, or is waited for."""
    before: float = float("-inf")
    """From versions that named no attempts: those that began no later than this (Unix seconds) do not count either."""


NEVER_RESUMED = Resumption()


@dataclass(frozen=True, slots=True)
class UserRequests:
    """What people asked for, read from the ledger."""

    cancelled: Mapping[str, Event] = field(default_factory=dict)
    """By key, the last wish that the job is cancelled."""
    resumed: Mapping[str, Resumption] = field(default_factory=dict)
    """What the last wish forgives, by the key of the job that is to go on."""

    def get_resumption(self, key: str) -> Resumption:
        """An empty one if nobody resumed the job."""
        return self.resumed.get(key, NEVER_RESUMED)


# Why: docs/decisions.md, D161
def collect_user_requests(events: Iterable[Event]) -> UserRequests:
    """What holds after all events, in any order. Of two wishes that did not know of each other a cancellation counts:
    what does not run can still be resumed."""
    wishes = [event for event in events if event.event in WISHES]
    wishes.sort(key=lambda event: event.event is EventKind.CANCELLED)  # among equals the last one holds
    cancelled: dict[str, Event] = {}
    resumed: dict[str, Resumption] = {}
    for event in sort_by_order(wishes, lambda event: (event.order, event.time)):
        if event.event is EventKind.CANCELLED:
            cancelled[event.key] = event
        else:
            cancelled.pop(event.key, None)
            resumed[event.key] = _add_resumption(resumed.get(event.key, NEVER_RESUMED), event)
    return UserRequests(cancelled, resumed)


def _add_resumption(before: Resumption, event: Event) -> Resumption:
    if event.attempts is None:
        return replace(before, asked_at=event.time, before=max(before.before, event.time))
    return replace(
        before,
        asked_at=event.time,
        attempts=before.attempts.union(event.attempts),
        batches=before.batches.union(event.batches),
    )
