"""What Slurm accounted of executions that ended: one record an execution, and its form in a ledger."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from jobs.store.reading import find_type_problem, list_field_checks
from jobs.store.records import FailureClass, parse_failure

LOST = "LOST"
"""State of a record of which Slurm has no row: the job never started, or the controller forgot it in a crash."""

CANCELLED_IN_QUEUE = "CANCELLED_IN_QUEUE"
"""State of a record of which Slurm has no row: a person took the job out of the queue before it started. A row that
comes after all counts instead; and if nobody saw the end (`ended_at` is 0), so does an attempt of the job."""

CANCELLED_BY = re.compile(r"\buid (\d+)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountingRecord:
    """One row of `sacct --duplicates --allocations`: an execution that has ended.

    A job that was requeued has several rows with the same `id`, distinct by `submitted_at`. An execution that ended
    before its supervisor began has a row and no attempt folder.
    """

    id: str
    """Such as 123_4 (array job and task) or 123."""
    batch: str
    """Job name. Slurm gives ids again after a crash of its controller, and then the name distinguishes two jobs."""
    key: str
    state: str
    """Slurm's state: COMPLETED, FAILED, TIMEOUT, NODE_FAIL, PREEMPTED, REQUEUED, CANCELLED, OUT_OF_MEMORY..."""
    failure: FailureClass | None = None
    """What the state means (`failures.classify_slurm_state`); None for a job that we took out of the queue."""
    cancelled_by_uid: int | None = None
    """With CANCELLED: whose scancel it was; None if Slurm itself cancelled it. With CANCELLED_IN_QUEUE: None if no row
    of the batch tells."""
    submitted_at: float
    """Unix seconds, as the next two. A requeue counts as a new submission."""
    started_at: float = 0.0
    """0: it never started."""
    ended_at: float = 0.0
    elapsed_seconds: int = 0
    gpus: int = 0
    """Allocated, over all nodes (`gres/gpu` of AllocTRES)."""
    cpus: int = 0
    """Allocated, over all nodes."""
    nodes: str = ""
    """Slurm's node list; empty if it never started."""
    failed_node: str = ""
    """The node that Slurm blames; empty if it names none."""
    exit_code: int = 0
    signal: int = 0
    message: str = ""
    """One line for people. Nothing is decided by it."""
    gpu_kinds: str = ""
    """The site's names of the allocated GPUs with their numbers, `a100_1g.5gb=2`; empty where it does not say."""
    remembered: bool = False
    """Made of what the controller remembered of an ended job: the accounting has no row of it, or not yet."""
    doubt: str = ""
    """With LOST: why nobody can say whether a person cancelled it; empty if that is known."""

    @property
    def gpu_seconds(self) -> int:
        return self.elapsed_seconds * self.gpus

    @property
    def ran(self) -> bool:
        # `started_at` does not say so: sacct gives a job that was cancelled in the queue its end as its start, and one
        # that was requeued right after its launch may have no start and 0 seconds.
        return self.elapsed_seconds > 0 or bool(self.nodes)

    @property
    def began_at(self) -> float:
        """Unix seconds of its start, or of its submission if Slurm has lost the start."""
        return self.started_at or self.submitted_at


OPTIONAL_FIELDS = frozenset({"cancelled_by_uid", "gpu_kinds", "remembered", "doubt"})
"""In a ledger only where they say something, so that earlier versions go on reading the lines of all other ends."""


KNOWN_FIELDS = frozenset(each.name for each in fields(AccountingRecord))


def encode_accounting_record(record: AccountingRecord) -> dict[str, Any]:
    """The record as a ledger holds it."""
    content = asdict(record)
    said = {name for name in OPTIONAL_FIELDS if content[name] or (name == "cancelled_by_uid" and content[name] == 0)}
    return {name: value for name, value in content.items() if name in said or name not in OPTIONAL_FIELDS}


def parse_accounting_record(content: Mapping[str, Any]) -> AccountingRecord:
    """The record of a ledger, without fields of a later version. Raises TypeError or ValueError if it is none."""
    if not isinstance(content, Mapping):
        raise TypeError("no object")
    known = {name: content[name] for name in list_field_checks(AccountingRecord) if name in content}
    known["failure"] = parse_failure(known.get("failure"))
    if problem := find_type_problem(AccountingRecord, known):
        raise ValueError(problem)
    if known.get("state") == "CANCELLED" and "cancelled_by_uid" not in known:
        found = CANCELLED_BY.search(str(known.get("message", "")))  # version 0.1 wrote the uid into the message alone
        known["cancelled_by_uid"] = int(found[1]) if found else None
    return AccountingRecord(**known)


def deduplicate_records(records: Iterable[AccountingRecord]) -> list[AccountingRecord]:
    """Each execution once, oldest first. Of several records of one execution the last of sacct's rows counts.

    sacct may change a state after the end (FAILED becomes REQUEUED), so pass stored records first and fresh ones after
    them. A row that came after all counts in place of the conclusion that the job was cancelled in the queue.
    """
    found = select_last_records(records)
    told = {(record.id, record.batch) for record in found if record.state not in {LOST, CANCELLED_IN_QUEUE}}
    kept = (record for record in found if record.state != CANCELLED_IN_QUEUE or (record.id, record.batch) not in told)
    return sorted(kept, key=lambda record: (record.submitted_at, record.started_at, record.id))


def select_last_records(records: Iterable[AccountingRecord]) -> list[AccountingRecord]:
    """Of several records of one execution the last; one that is remembered counts only where sacct has no row."""
    order = sorted(records, key=lambda record: not record.remembered)
    return list({(record.id, record.batch, record.submitted_at): record for record in order}.values())
