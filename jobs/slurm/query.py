"""One look at a sweep on Slurm: the ledgers, one squeue, one sacct, judged together; and noting what is settled."""

import contextlib
import getpass
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cluster import ClusterState, Observation
from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.reconcile.failures import classify_slurm_state
from jobs.slurm.batch_ledger import BatchHistory, BatchLedger, read_shared_history, sort_records
from jobs.slurm.batches import KnownBatch
from jobs.slurm.client import SlurmClient
from jobs.slurm.observe import ReconcileResult, reconcile_answers
from jobs.slurm.parsing import AccountRow, QueueRow, SlurmAnswer, SlurmAnswers
from jobs.slurm.script import parse_script_tasks
from jobs.slurm.states import is_over
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.paths import Store, open_replacement


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSnapshot:
    """What was found, and when."""

    sweep: str
    batch_history: BatchHistory
    queue: SlurmAnswer[QueueRow]
    accounting: SlurmAnswer[AccountRow]
    reconciled: ReconcileResult
    taken_at: float
    """Unix seconds, before the first question."""

    def merge_records(self) -> dict[str, list[AccountingRecord]]:
        """All executions that are known to have ended, by key, oldest first: noted ones and fresh ones."""
        noted, fresh = self.batch_history.endings, self.reconciled.endings
        return {key: sort_records([*noted.get(key, ()), *fresh.get(key, ())]) for key in noted.keys() | fresh.keys()}


def list_users(notes: BatchHistory) -> set[str]:
    """Everybody who has submitted jobs of this sweep, and this user."""
    return {batch.user for batch in notes.batches.values()} | {getpass.getuser()}


def query_answers(client: SlurmClient, notes: BatchHistory, *, settled_too: bool = False) -> SlurmAnswers:
    """One squeue for everybody's jobs, one sacct for the batches that are not settled; both at the same time.

    `settled_too`: sacct for all batches, for exact hours: after trouble slurmdbd rewrites rows that were final before.

    A second sacct, by name, only where an sbatch gave no answer and its batch is not in the queue. A second squeue,
    only where a job has left the queue and sacct does not tell of its end yet.
    """
    moment = time.time()
    batches = list(notes.batches.values()) if settled_too else notes.list_open_batches()
    ids = [batch.id for batch in batches if batch.id]
    since = min((batch.intended_at for batch in batches), default=0.0)
    queue, accounting = client.query_queue_and_accounting(list_users(notes), ids, since)
    queue = add_recent_jobs(client, notes, queue, accounting)
    return SlurmAnswers(queue, add_unknown_submits(client, notes, queue, accounting), moment)


def load_batch_history(store: Store, sweep: str, keys: Collection[str]) -> BatchHistory:
    """The sweep's ledgers, and those of the store's other sweeps as far as they share jobs with it."""
    own = store.locate_sweep(sweep).ledger
    others = [path / own.name for path in sorted(store.sweeps.glob("*")) if path != own.parent]
    return read_shared_history(own, others, keys)


def query_slurm(
    client: SlurmClient,
    notes: BatchHistory,
    sweep: str,
    patience: SlurmTimeouts,
    absent_since: Mapping[str, float] | None = None,
) -> SlurmSnapshot:
    """Asks Slurm. `absent_since`: what an earlier look missed, with its Unix seconds."""
    return build_slurm_snapshot(sweep, notes, query_answers(client, notes), patience, absent_since)


# Why: docs/decisions.md, D36
def add_recent_jobs(
    client: SlurmClient, notes: BatchHistory, queue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]
) -> SlurmAnswer[QueueRow]:
    """Adds what the controller remembers of jobs that left the queue before sacct told of their end."""
    if not (queue.ok and accounting.ok):
        return queue
    over = (row for row in accounting.rows if is_over(row))
    told = {(row.name, row.id.partition("_")[2]) for rows in (queue.rows, over) for row in rows}
    settled = {(ending.batch, ending.key) for known in notes.endings.values() for ending in known}
    tasks = (
        (batch, index, key) for batch in notes.list_open_batches() for index, key in batch.tasks.items() if batch.id
    )
    missed = {
        f"{batch.id}_{index}"
        for batch, index, key in tasks
        if key not in batch.withdrawn and (batch.name, str(index)) not in told and (batch.name, key) not in settled
    }
    if not missed:
        return queue
    remembered = client.query_recent_jobs(missed)
    ours = (row for row in remembered.rows if row.name in notes.batches)  # ids may have been given again
    return SlurmAnswer(rows=(*queue.rows, *ours)) if remembered.ok else remembered


def add_unknown_submits(
    client: SlurmClient, notes: BatchHistory, queue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]
) -> SlurmAnswer[AccountRow]:
    """Adds what sacct knows by name of batches whose sbatch gave no answer and which are not in the queue."""
    queued = {row.name for row in queue.rows}
    doubtful = [batch for batch in notes.batches.values() if batch.submit_unknown and batch.name not in queued]
    if not doubtful or not accounting.ok:
        return accounting
    found = client.query_accounting_by_name(
        [batch.name for batch in doubtful], min(each.intended_at for each in doubtful)
    )
    if not found.ok:
        return SlurmAnswer(rows=accounting.rows, problem=found.problem, absent=found.absent)
    return SlurmAnswer(rows=(*accounting.rows, *found.rows))


def build_slurm_snapshot(
    sweep: str,
    notes: BatchHistory,
    answers: SlurmAnswers,
    patience: SlurmTimeouts,
    absent_since: Mapping[str, float] | None = None,
) -> SlurmSnapshot:
    """The answers of one moment as a look."""
    ended = {(ending.batch, ending.key) for known in notes.endings.values() for ending in known}
    seen = reconcile_answers(
        list(notes.batches.values()),
        answers.queue,
        answers.accounting,
        now=answers.taken_at,
        patience=patience,
        sweep=sweep,
        seen_absent=absent_since or {},
        ended=ended,
    )
    if answers.accounting.problem and not answers.accounting.absent:
        problem = answers.accounting.problem
        seen.remarks.append(f"sacct does not answer ({problem}): how jobs ended is told by their own records alone")
    for key in notes.endings.keys() - seen.observations.keys():
        seen.observations[key] = Observation(state=ClusterState.ENDED, message=notes.endings[key][-1].message)
    return SlurmSnapshot(
        sweep=sweep,
        batch_history=notes,
        queue=answers.queue,
        accounting=answers.accounting,
        reconciled=seen,
        taken_at=answers.taken_at,
    )


def save_settled(look: SlurmSnapshot, ledger: BatchLedger, client: SlurmClient, patience: SlurmTimeouts) -> str:
    """Notes what this look has settled. Returns a problem in one line if jobs are queued that nobody can name."""
    for name, job_id in look.reconciled.adopted.items():
        ledger.write_sent(name, job_id)
    for name in look.reconciled.not_submitted:
        ledger.write_not_submitted(name, "sbatch gave no answer, and Slurm does not know the job")
    ledger.write_ended(iter_newly_ended(look, patience))
    for name, job_id in look.reconciled.unknown_batches.items():
        tasks = parse_script_tasks(client.query_batch_script(job_id) or "")
        if not tasks:
            return f"job {job_id} ({name}) is in the queue, but neither a ledger nor its script tells what it runs"
        user = next(row.user for row in look.queue.rows if row.name == name)
        ledger.write_adopted_intent(KnownBatch(name=name, phase="", tasks=tasks, user=user, intended_at=look.taken_at))
        ledger.write_sent(name, job_id)
    return ""


def iter_newly_ended(look: SlurmSnapshot, patience: SlurmTimeouts) -> Iterable[AccountingRecord]:
    """Endings of jobs that are over for good, as far as they are not noted; a word of ours for one that left no row."""
    noted = {
        (each.id, each.batch, each.submitted_at) for known in look.batch_history.endings.values() for each in known
    }
    closed = {(each.batch, each.key) for known in look.batch_history.endings.values() for each in known}
    over = find_ended_jobs(look)
    for endings in look.reconciled.endings.values():
        for ending in endings:
            if (ending.batch, ending.key) in over and (ending.id, ending.batch, ending.submitted_at) not in noted:
                closed.add((ending.batch, ending.key))
                yield ending
    if look.accounting.ok or look.accounting.absent:
        missed = [(look.batch_history.batches[name], key) for name, key in over if (name, key) not in closed]
        missed = [(batch, key) for batch, key in missed if not can_arrive_late(batch, key, look.taken_at, patience)]
        yield from (build_lost_record(batch, key, accounted=look.accounting.ok) for batch, key in missed)


def find_ended_jobs(look: SlurmSnapshot) -> set[tuple[str, str]]:
    """(batch, key) of the jobs that no longer live in any batch."""
    ended = {key for key, seen in look.reconciled.observations.items() if seen.state is ClusterState.ENDED}
    known = (batch for batch in look.batch_history.batches.values() if batch.id)
    return {(batch.name, key) for batch in known for key in batch.tasks.values() if key in ended}


def can_arrive_late(batch: KnownBatch, key: str, now: float, patience: SlurmTimeouts) -> bool:
    """Whether the job was taken out so lately that sacct may still tell how it ended: it may have begun just before."""
    return now - batch.withdrawn.get(key, float("-inf")) < patience.missing_job_s


def build_lost_record(batch: KnownBatch, key: str, *, accounted: bool) -> AccountingRecord:
    """Closes a job that no row of Slurm's tells of."""
    index = next(index for index, each in batch.tasks.items() if each == key)
    return AccountingRecord(
        id=f"{batch.id}_{index}",
        batch=batch.name,
        key=key,
        state=LOST,
        failure=classify_slurm_state(LOST, withdrawn=key in batch.withdrawn, accounted=accounted),
        submitted_at=batch.sent_at,
        message="" if accounted else "gone from Slurm's queue without a trace; there is no accounting to ask",
    )


# Keeps Slurm's last answers on disk, so that people who look at a sweep again and again do not burden the controller.
#
# For showing only: nothing is ever decided or sent on an answer from here.

FORMAT = 1
"""Another number on disk is another version's: passed over."""


def save_answers(path: Path, answers: SlurmAnswers) -> None:
    """Writes both answers, whole or not at all. A store that refuses the write is no error: one asks again then."""
    content = {
        "format": FORMAT,
        "time": answers.taken_at,
        "queue": _serialize_answer(answers.queue),
        "accounting": _serialize_answer(answers.accounting),
    }
    with contextlib.suppress(OSError), open_replacement(path) as unfinished:
        unfinished.write_text(json.dumps(content))


def read_fresh_answers(
    path: Path, now: float, patience: SlurmTimeouts, *, not_before: float = 0.0
) -> SlurmAnswers | None:
    """The kept answers if they are at most patience.cache old, or patience.look_again if one of them failed.

    `not_before`: when something was last sent or cancelled (Unix seconds); older answers do not know of it.
    None also for a file that is absent, torn, or of the future.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            return None
        kept = SlurmAnswers(
            SlurmAnswer(rows=tuple(map(QueueRow._make, content["queue"]["rows"])), **_state(content["queue"])),
            SlurmAnswer(
                rows=tuple(map(AccountRow._make, content["accounting"]["rows"])), **_state(content["accounting"])
            ),
            float(content["time"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = kept.queue.ok and (kept.accounting.ok or kept.accounting.absent)
    limit = patience.cache_s if good else min(patience.cache_s, patience.recheck_s)
    return kept if not_before <= kept.taken_at and 0 <= now - kept.taken_at <= limit else None


def _serialize_answer(answer: SlurmAnswer[Any]) -> dict[str, Sequence[Any] | str | bool]:
    return {"rows": answer.rows, "problem": answer.problem, "absent": answer.absent}


def _state(content: dict[str, Any]) -> dict[str, Any]:
    return {"problem": str(content["problem"]), "absent": bool(content["absent"])}
