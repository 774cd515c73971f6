"""Batches in a sweep's ledger: what was about to be sent, what Slurm answered, how executions ended.

A batch's intent is on disk before its sbatch, so no job of ours is ever in the queue without a line here.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.claims.claims import refresh_folder
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.reconcile.accounting import AccountingRecord, encode_accounting_record
from jobs.slurm.batches import KnownBatch, SlurmBatch
from jobs.slurm.noted_endings import NotedEndings
from jobs.store.ledger import Ledger, find_next_order, list_ledger_files, read_lines_of_kind, render_host_name
from jobs.store.order import parse_order, sort_by_order
from jobs.store.paths import SAFE_NAME
from jobs.store.reading import is_time, parse_object

INDEX = re.compile(r"[0-9]{1,9}")
PHASE = re.compile(r"[a-z_]{0,20}")
"""As in a batch's name (`jobs.slurm.batches.NAME`)."""


@dataclass(slots=True)
class BatchHistory:
    """All that the ledgers of one sweep say of Slurm."""

    batches: dict[str, KnownBatch] = field(default_factory=dict)
    """By name."""
    accounting_records: NotedEndings = field(default_factory=NotedEndings)
    """By key; those that were final when they were noted."""

    def list_settled(self) -> Set[tuple[str, str]]:
        """(batch name, key) of the jobs of which some end is noted."""
        return self.accounting_records.settled.keys()

    def list_open_batches(self) -> list[KnownBatch]:
        """Batches of which some task has no noted row with which it is surely over: sacct must be asked about them.

        Rows come late, after an outage of the accounting very late: a job that was given up as lost may still get its
        row, and one whose last row reports a requeue ran once more.
        """
        is_over = self.accounting_records.settled
        return [
            batch
            for batch in self.batches.values()
            if not batch.not_submitted_at and not all(is_over.get((batch.name, key)) for key in batch.tasks.values())
        ]


GIVEN_UP = "sbatch gave no answer, and Slurm does not know the job"
"""The reason in the line of a batch that was looked for in vain. Ledgers have it since the first version."""


class BatchLedger:
    """Writes the lines below by one writer's ledger. Every call is on disk when it returns (OSError if refused)."""

    def __init__(self, ledger: Ledger, clock: Clock = SYSTEM_CLOCK, *, cluster: str = "") -> None:
        """`cluster`: the one that was chosen for this writer's batches, if one was."""
        self.ledger = ledger
        self.clock = clock
        self._where = {"cluster": cluster} if cluster else {}

    def write_intent(self, batch: SlurmBatch, user: str) -> None:
        """Before sbatch is called."""
        tasks = {str(index): key for index, key in batch.tasks.items()}
        self._write(
            batch.name, "intent", phase=batch.phase, tasks=tasks, user=user, **build_single_mark(batch), **self._where
        )

    def write_adopted_intent(self, batch: KnownBatch) -> None:
        """A batch that was found in the queue and in no ledger, with its tasks from its own script."""
        tasks = {str(index): key for index, key in batch.tasks.items()}
        self._write(
            batch.name,
            "intent",
            phase=batch.phase,
            tasks=tasks,
            user=batch.user,
            **build_single_mark(batch),
            **self._where,
        )

    def write_sent(self, name: str, job_id: str) -> None:
        """Slurm took it, or a search by name found that it had."""
        self._write(name, "sent", id=job_id)

    def write_not_submitted(self, name: str, reason: str) -> None:
        """Slurm refused it, or it never reached Slurm."""
        self._write(name, "void", reason=reason)

    def write_withdrawn(self, keys_by_batch: Mapping[str, Sequence[str]]) -> None:
        """Before scancel is called."""
        self._write_ordered("withdrawn", keys_by_batch)

    def write_kept(self, keys_by_batch: Mapping[str, Sequence[str]]) -> None:
        """Undoes `write_withdrawn` for jobs that are in the queue after it: no cancellation of them is ours."""
        self._write_ordered("kept", keys_by_batch)

    def write_ended(self, records: Iterable[AccountingRecord]) -> None:
        """All executions of jobs that are over for good (requeued ones too), so that Slurm need not be asked again."""
        self.ledger.write({"ending": encode_accounting_record(record)} for record in records)

    def _write_ordered(self, what: str, keys_by_batch: Mapping[str, Sequence[str]]) -> None:
        """Behind all that any writer has written of the same kind."""
        if not keys_by_batch:
            return
        moment, number = self.clock.now(), find_next_order(self.ledger.folder)
        self.ledger.write(
            {"batch": name, "what": what, "time": moment, "order": number, "keys": list(keys)}
            for name, keys in keys_by_batch.items()
        )

    def _write(self, name: str, what: str, **content: object) -> None:
        self.ledger.write([{"batch": name, "what": what, "time": self.clock.now(), **content}])


def build_single_mark(batch: SlurmBatch | KnownBatch) -> dict[str, bool]:
    """What only the intent of a batch without an array says."""
    return {"single": True} if batch.is_single else {}


def read_shared_history(
    folder: Path, others: Iterable[Path], keys: Collection[str], lead_seconds: float | None = None
) -> BatchHistory:
    """A sweep's history, and what the store's other sweeps noted of jobs (`keys`) that they share with it."""
    history = read_batch_history(folder, lead_seconds)
    for other in others:
        theirs = read_batch_history(other, lead_seconds)
        for name, batch in theirs.batches.items():
            batch.tasks = {index: key for index, key in batch.tasks.items() if key in keys}
            if batch.tasks:
                history.batches.setdefault(name, batch)
        history.accounting_records.add_shared(theirs.accounting_records, keys)
    return history


WRITER = re.compile(r"w-(.+)-\d+-\d+")


def is_of_another_machine(path: Path) -> bool:
    """Whether a ledger's file was written on another machine, by its clock, as the file's name says."""
    writer = WRITER.fullmatch(path.stem)
    return writer is not None and writer[1] != render_host_name()


# Why: docs/decisions.md, D168
def measure_shift(path: Path, lines: Sequence[Mapping[str, Any]], lead_seconds: float) -> float:
    """What is added to the times in another machine's file to have them by our clock.

    The file server stamped the file when its last line was written, so both clocks are known by the server's.
    `lead_seconds`: by how much our clock is ahead of the server's.
    """
    times = [float(line["time"]) for line in lines if is_time(line.get("time"))]
    return path.stat().st_mtime + lead_seconds - times[-1] if times and is_of_another_machine(path) else 0.0


def read_batch_history(folder: Path, lead_seconds: float | None = None) -> BatchHistory:
    """All writers' lines. Torn or foreign ones are skipped.

    `lead_seconds`: by how much this machine's clock is ahead of the file server's, if it is known. Then the times that
    other machines wrote are given by our clock.
    """
    history = BatchHistory()
    refresh_folder(folder)  # another login node may have written a moment ago
    files = list_ledger_files(folder)
    timed: list[dict[str, Any]] = []
    for path in files:
        lines = [line for line in _parse_lines(read_lines_of_kind(path, "batch")) if is_time(line.get("time"))]
        lines = [line for line in lines if SAFE_NAME.fullmatch(str(line["batch"]))]
        shift = 0.0 if lead_seconds is None else measure_shift(path, lines, lead_seconds)
        timed += [{**line, "time": line["time"] + shift} for line in lines] if shift else lines
    intents = [line for line in timed if line.get("what") == "intent"]
    others = [line for line in timed if line.get("what") != "intent"]
    for line in [*intents, *sort_by_order(others, lambda line: (parse_order(line.get("order")), line["time"]))]:
        _apply(history, line)
    history.accounting_records = NotedEndings(line for path in files for line in read_lines_of_kind(path, "ending"))
    return history


def _apply(history: BatchHistory, line: Mapping[str, Any]) -> None:
    name, what, moment = str(line["batch"]), line.get("what"), float(line["time"])
    if what == "intent" and isinstance(line.get("tasks"), dict) and name not in history.batches:
        tasks = {
            int(index): str(key)
            for index, key in line["tasks"].items()
            if INDEX.fullmatch(index) and SAFE_NAME.fullmatch(str(key))
        }
        if not PHASE.fullmatch(str(line.get("phase", ""))):
            return
        history.batches[name] = KnownBatch(
            name=name,
            phase=str(line.get("phase", "")),
            tasks=tasks,
            user=str(line.get("user", "")),
            intended_at=moment,
            is_single=line.get("single") is True,
            cluster=str(line.get("cluster", "")),
        )
    batch = history.batches.get(name)
    if batch is None:
        return
    if what == "sent":
        batch.id, batch.sent_at, batch.not_submitted_at = str(line.get("id", "")), moment, 0.0
        batch.given_up = False
    elif what == "void" and not batch.id:
        batch.not_submitted_at, batch.given_up = moment, line.get("reason") == GIVEN_UP
    elif what == "withdrawn" and isinstance(line.get("keys"), list):
        batch.withdrawn |= dict.fromkeys(map(str, line["keys"]), moment)
    elif what == "kept" and isinstance(line.get("keys"), list):
        for key in map(str, line["keys"]):
            batch.withdrawn.pop(key, None)


def _parse_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield parse_object(line)
        except ValueError:
            continue  # torn
