"""How executions ended, as the ledgers note it: lines of all writers by key, parsed only where somebody asks.

A large sweep has tens of thousands of them, and a report needs those of the few jobs that are not done.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from sys import intern
from typing import NamedTuple

from jobs.reconcile.accounting import (
    OPTIONAL_FIELDS,
    AccountingRecord,
    parse_accounting_record,
    select_last_records,
)
from jobs.slurm.states import SURELY_OVER
from jobs.store.reading import parse_object
from jobs.store.records import FailureClass

BEGINNING = re.compile(
    rb'\{"ending": \{"id": "[^"\\]*", "batch": "([^"\\]*)", "key": "([^"\\]*)", "state": "([^"\\]*)", '
    + rf'"failure": (?:null|"(?:{"|".join(FailureClass)})"), (?:"(cancelled_by_uid)": \d+, )?"submitted_at": '.encode()
)
MESSAGE = b'"message": "'
KINDS = b'", "gpu_kinds": "'
END = b'"}}'
FIELDS = len(fields(AccountingRecord)) - len(OPTIONAL_FIELDS)
"""A line as `encode_accounting_record` writes it of most ends: its beginning, the number of its fields without the
optional ones, its end. Others are read as JSON."""


class Ending(NamedTuple):
    """What a line says at first sight."""

    batch: str
    key: str
    state: str
    line: bytes
    remembered: bool = False
    """See `AccountingRecord`."""
    doubtful: bool = False
    """Its record has a doubt."""


class NotedEndings(Mapping[str, Sequence[AccountingRecord]]):
    """Records by key, oldest first, each execution once however many writers noted it."""

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        """Torn and foreign lines are skipped."""
        self.settled: dict[tuple[str, str], bool] = {}
        """By (batch name, key), of the jobs of which some end is noted: whether one is noted that is surely their last.
        """
        self._by_key: dict[str, list[Ending]] = {}
        self._doubtful: set[str] = set()
        self._parsed: dict[str, Sequence[AccountingRecord]] = {}
        for line in lines:
            if (ending := read_ending(line)) is not None:
                self._add(ending)

    def _add(self, ending: Ending) -> None:
        self._by_key.setdefault(ending.key, []).append(ending)
        job = ending.batch, ending.key
        self.settled[job] = self.settled.get(job, False) or (ending.state in SURELY_OVER and not ending.remembered)
        if ending.doubtful:
            self._doubtful.add(ending.key)

    def __getitem__(self, key: str) -> Sequence[AccountingRecord]:
        if key not in self._parsed:
            found = [parse_ending(each.line) for each in self._by_key[key]]
            self._parsed[key] = sort_records(record for record in found if record is not None)
        return self._parsed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def iter_endings(self) -> Iterator[Ending]:
        """All of them, unparsed."""
        for endings in self._by_key.values():
            yield from endings

    def is_plain(self, key: str) -> bool:
        """Whether no end of the job is in doubt."""
        return key not in self._doubtful

    def read_last_message(self, key: str) -> str:
        """Of the newest execution of the job."""
        endings = self._by_key[key]
        message = endings[0].line.rpartition(MESSAGE)[2].removesuffix(END).partition(KINDS)[0]
        if len(endings) == 1 and message.isascii() and b"\\" not in message and b'"' not in message:
            return message.decode()
        return self[key][-1].message if self[key] else ""

    def add_shared(self, others: "NotedEndings", keys: Iterable[str]) -> None:
        """Takes in what another sweep noted of these jobs."""
        for key in others._by_key.keys() & set(keys):
            for ending in others._by_key[key]:
                self._add(ending)
            self._parsed.pop(key, None)


class MergedRecords(Mapping[str, Sequence[AccountingRecord]]):
    """What was noted before and what the last answers add, by key."""

    def __init__(self, noted: NotedEndings, fresh: Mapping[str, Sequence[AccountingRecord]]) -> None:
        self._noted = noted
        self._fresh = fresh

    def __getitem__(self, key: str) -> Sequence[AccountingRecord]:
        if key not in self._fresh:
            return self._noted[key]
        return sort_records([*self._noted.get(key, ()), *self._fresh[key]])

    def __iter__(self) -> Iterator[str]:
        yield from self._noted
        yield from (key for key in self._fresh if key not in self._noted)

    def __len__(self) -> int:
        return len(self._noted.keys() | self._fresh.keys())

    def __contains__(self, key: object) -> bool:
        return key in self._noted or key in self._fresh


def read_ending(line: bytes) -> Ending | None:
    """One line of a ledger; None if it is torn or no note of an end."""
    match = BEGINNING.match(line) if line.isascii() else None
    optional = bool(match[4]) + (KINDS in line) if match is not None else 0
    if match is not None and line.count(b', "') + 1 == FIELDS + optional and line.endswith(END):
        batch, key, state, _ = match.groups()
        # batches and states stand in hundreds of lines: one object for all saves 3 MiB
        return Ending(intern(batch.decode()), key.decode(), intern(state.decode()), line)
    record = parse_ending(line)
    if record is None:
        return None
    return Ending(record.batch, record.key, record.state, line, record.remembered, bool(record.doubt))


def parse_ending(line: bytes) -> AccountingRecord | None:
    """The whole line; None if it is no note of an end that this version knows."""
    try:
        return parse_accounting_record(parse_object(line.decode())["ending"])
    except (KeyError, TypeError, ValueError):
        return None


def sort_records(records: Iterable[AccountingRecord]) -> list[AccountingRecord]:
    """Oldest first, each execution once however many writers noted it."""
    return sorted(select_last_records(records), key=lambda record: (record.submitted_at, record.started_at))
