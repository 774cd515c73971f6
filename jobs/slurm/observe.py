"""Judges what squeue and sacct say of the batches that the ledger knows. Pure: nothing is asked here.

A job is recognised by its job name (the batch's) and its array index, never by its id alone: after a crash of the
controller ids are given again. A live row outweighs all that is older. Absence from the queue means something only in a
good answer, some time after sbatch, and when two queries agree; without squeue only a final row of sacct proves an end.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import AccountingRecord
from jobs.slurm.batches import KnownBatch, parse_sweep_name
from jobs.slurm.parsing import AccountRow, QueueRow, SlurmAnswer
from jobs.slurm.states import (
    MAY_RUN_AGAIN,
    STATE_WORDS,
    SURELY_OVER,
    build_accounting_record,
    classify_queue_row,
    describe_end,
    explain_reason,
    is_hopeless,
    is_over,
    list_awaited_jobs,
)
from jobs.slurm.timeouts import SlurmTimeouts

GONE = "Slurm no longer knows it"


@dataclass(slots=True, kw_only=True)
class ReconcileResult:
    """What one query says."""

    observations: dict[str, Observation] = field(default_factory=dict)
    """By key; nothing for keys that are not in Slurm's hands (never sent, refused, noted as ended before)."""
    accounting_records: dict[str, list[AccountingRecord]] = field(default_factory=dict)
    """By key: every execution that sacct has as ended, in sacct's order, also of jobs that run again."""
    adopted: dict[str, str] = field(default_factory=dict)
    """Batch name to id: batches without a known id that were found by name."""
    not_submitted: list[str] = field(default_factory=list)
    """Names of batches whose sbatch gave no answer, and which surely never reached Slurm."""
    unknown_batches: dict[str, str] = field(default_factory=dict)
    """Job name of this sweep to an id: in the queue, and known to no ledger."""
    duplicates: list[str] = field(default_factory=list)
    """Ids of pending copies of jobs that are live elsewhere."""
    missing_since: dict[str, float] = field(default_factory=dict)
    """Keys whose absence the next query must confirm, and when they were first missed (Unix seconds)."""
    stuck_reasons: dict[str, str] = field(default_factory=dict)
    """Keys that are queued and would wait for ever as things are, and why."""
    remarks: list[str] = field(default_factory=list)
    """For people, one line each."""


class LiveRow(NamedTuple):
    """A live row of squeue."""

    row: QueueRow
    state: ClusterState
    intended_at: float
    """Unix seconds: when its batch was about to be sent."""


def reconcile_answers(
    batches: Sequence[KnownBatch],
    queue: SlurmAnswer[QueueRow],
    accounting: SlurmAnswer[AccountRow],
    *,
    now: float,
    timeouts: SlurmTimeouts,
    sweep: str = "",
    missing_since: Mapping[str, float] | None = None,
    settled: Collection[tuple[str, str]] = frozenset(),
) -> ReconcileResult:
    """What the answers say of every job of the batches (any order).

    `queue` is of all users who have sent batches; `accounting` of all batches that are not settled, by id, and of those
    whose sbatch gave no answer, by name. `missing_since`: that of the previous query. `settled`: (batch name, key) of
    jobs whose end was noted before; `accounting` need not have rows of them.
    """
    reconciler = _Reconciler(
        batches=sorted(batches, key=lambda batch: batch.intended_at),
        by_name={batch.name: batch for batch in batches},
        queue=queue,
        accounting=accounting,
        now=now,
        timeouts=timeouts,
        missing_before=missing_since or {},
        settled=frozenset(settled),
    )
    reconciler.sort_queue(sweep or next((parse_sweep_name(batch.name) for batch in batches), ""))
    reconciler.sort_accounting()
    reconciler.find_batches()
    reconciler.reconcile_live()
    reconciler.reconcile_missing()
    return reconciler.result


@dataclass(slots=True, kw_only=True)
class _Reconciler:
    batches: Sequence[KnownBatch]
    """Oldest first."""
    by_name: Mapping[str, KnownBatch]
    queue: SlurmAnswer[QueueRow]
    accounting: SlurmAnswer[AccountRow]
    now: float
    timeouts: SlurmTimeouts
    missing_before: Mapping[str, float]
    settled: Collection[tuple[str, str]]
    live: dict[str, list[LiveRow]] = field(default_factory=dict)
    """By key; more than one where a job was sent twice."""
    left: dict[tuple[str, str], QueueRow] = field(default_factory=dict)
    """squeue's row by (batch name, key) of jobs that have ended and that the controller has not forgotten yet."""
    newest: dict[tuple[str, str], AccountRow] = field(default_factory=dict)
    """Newest row of sacct by (batch name, key)."""
    shared: dict[tuple[str, str], AccountRow] = field(default_factory=dict)
    """The same, of rows that several tasks share."""
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Batch name to the array ids under which it was found."""
    result: ReconcileResult = field(default_factory=ReconcileResult)

    def sort_queue(self, sweep: str) -> None:
        """Live rows by key; jobs of this sweep that no ledger knows."""
        for row in self.queue.rows:
            batch = self.by_name.get(row.name)
            array = row.id.partition("_")[0]
            if batch is None:
                if sweep and parse_sweep_name(row.name) == sweep:
                    self.result.unknown_batches.setdefault(row.name, array)
                continue
            self.ids[row.name].add(array)
            key = batch.find_key(row.id)
            state = classify_queue_row(row)
            if key is not None and state is None:
                self.left[row.name, key] = row
            elif key is not None and state is not None:
                self.live.setdefault(key, []).append(LiveRow(row, state, batch.intended_at))

    def sort_accounting(self) -> None:
        """Newest row by job; every execution that is over, as a record."""
        for row in self.accounting.rows:
            batch = self.by_name.get(row.name)
            if batch is None:
                continue
            array, _, index = row.id.partition("_")
            self.ids[row.name].add(array)
            if not index and row.state == "CANCELLED" and row.by_uid and not batch.is_single:
                # of tasks that were cancelled one by one in the queue, all that is left may be a row of the whole array
                for each, task in batch.tasks.items():
                    self.shared.setdefault((row.name, task), row._replace(id=f"{array}_{each}", shared=True))
            key = batch.find_key(row.id)
            if key is None:
                continue
            if row.shared:
                self.shared[row.name, key] = row
                continue
            newest = self.newest.get((row.name, key))
            if newest is None or (row.submitted_at, row.started_at) >= (newest.submitted_at, newest.started_at):
                self.newest[row.name, key] = row
            if is_over(row):
                self._add_record(batch, key, row)

    def _add_record(self, batch: KnownBatch, key: str, row: AccountRow) -> None:
        self.result.accounting_records.setdefault(key, []).append(
            build_accounting_record(row, key, withdrawn=key in batch.withdrawn)
        )

    def find_batches(self) -> None:
        """Adopts what was found by name; gives up what was searched for long enough."""
        answered = self.queue.ok and (self.accounting.ok or self.accounting.absent)
        for batch in self.batches:
            found = sorted(self.ids.get(batch.name, ()))
            if len(found) > 1 or (found and batch.id and batch.id not in found):
                known = f" (sbatch said {batch.id})" if batch.id else ""
                self.result.remarks.append(f"{batch.name} is in Slurm as {' and '.join(found)}{known}")
            if batch.id:
                continue
            if found:
                self.result.adopted[batch.name] = found[0]
            elif batch.submit_unknown and answered and self.now - batch.intended_at > self.timeouts.unknown_submit_s:
                self.result.not_submitted.append(batch.name)

    def reconcile_live(self) -> None:
        """Jobs that squeue shows."""
        for key, rows in self.live.items():
            kept, others = pick_live_row(rows)
            self.result.observations[key] = _observe_live(kept)
            if kept.state is ClusterState.QUEUED and is_hopeless(kept.row.reason):
                self.result.stuck_reasons[key] = explain_reason(kept.row.reason)
            for other in others:
                if other.state in {ClusterState.QUEUED, ClusterState.STUCK}:
                    self.result.duplicates.append(other.row.id)
                else:
                    self.result.remarks.append(f"{key} is live twice: {kept.row.id} and {other.row.id}")

    def reconcile_missing(self) -> None:
        """Jobs that squeue does not show, by the newest batch that may have them."""
        sent: dict[str, KnownBatch] = {}
        unanswered: dict[str, KnownBatch] = {}
        for batch in self.batches:
            if batch.id or batch.name in self.result.adopted:
                sent.update(dict.fromkeys(batch.tasks.values(), batch))
            elif batch.submit_unknown and batch.name not in self.result.not_submitted:
                unanswered.update(dict.fromkeys(batch.tasks.values(), batch))
        for key, batch in (sent | unanswered).items():
            if key in self.live:
                continue
            # a batch that may be on its way outweighs what an older one has come to
            observation = self._observe_unanswered(batch) if key in unanswered else self._observe_missing(batch, key)
            if observation is not None:
                self.result.observations[key] = observation

    def _observe_unanswered(self, batch: KnownBatch) -> Observation:
        moment = datetime.fromtimestamp(batch.intended_at, UTC)
        words = f"sbatch gave no answer at {moment:%Y-%m-%d %H:%M:%S} UTC; looked for by name"
        problem = self.queue.problem or (self.accounting.problem if not self.accounting.absent else "")
        return _unknown(f"{words} ({problem})" if problem else words)

    def _observe_missing(self, batch: KnownBatch, key: str) -> Observation | None:
        """A job that was sent and has no row in squeue's answer. None: its end was noted before."""
        if (batch.name, key) in self.settled:
            return None
        row = self.newest.get((batch.name, key))
        if row is not None and row.state in SURELY_OVER and is_over(row):
            return _observe_end(row)
        if self.queue.ok:
            return self._observe_left(batch, key, row)
        if key in self.missing_before:
            self.result.missing_since[key] = self.missing_before[key]  # squeue did not answer: this query says nothing
        return _unknown(f"squeue: {self.queue.problem}")

    def _observe_left(self, batch: KnownBatch, key: str, row: AccountRow | None) -> Observation:
        """A job that is surely not in the queue, and not surely over."""
        if row is not None and row.state in MAY_RUN_AGAIN and is_over(row):
            if self.now - row.ended_at >= self.timeouts.recheck_s:
                return _observe_end(row)
            return _unknown(f"{describe_end(row)}; may be in the queue again in a moment")
        shared = self.shared.get((batch.name, key))
        if (
            row is None
            and shared is not None
            and is_over(shared)
            and self.now - shared.ended_at >= self.timeouts.recheck_s
        ):
            self._add_record(batch, key, shared)
            return _observe_end(shared)
        if key in batch.withdrawn:
            return Observation(state=ClusterState.ENDED, message="taken out of the queue")
        return self._observe_unaccounted(batch, key, row)

    def _observe_unaccounted(self, batch: KnownBatch, key: str, row: AccountRow | None) -> Observation:
        """Nowhere, or in sacct alone and not as ended (sacct lags; after a crash its rows may never be closed)."""
        left = self.left.get((batch.name, key))
        # For some minutes after an end that the controller remembers, wait for sacct: only sacct says who cancelled a
        # job, and the attempt's own record of a stop on request reads as if the job were to go on.
        if left is not None and self.accounting.ok and self.now - left.ends_at < self.timeouts.accounting_lag_s:
            return _unknown(f"ended ({left.state}); sacct does not tell of it yet")
        since = max(batch.sent_at, batch.intended_at)
        first = self.missing_before.get(key, self.now)
        if first < since:
            first = self.now  # missed before it was sent once more
        if self.now - since >= self.timeouts.missing_job_s and self.now - first >= self.timeouts.recheck_s:
            return Observation(state=ClusterState.ENDED, id=row.id if row else "", message=GONE)
        self.result.missing_since[key] = first
        return _unknown("not in Slurm's queue, and no word of its end yet")


MOST_ALIVE_FIRST = (ClusterState.RUNNING, ClusterState.UNKNOWN, ClusterState.QUEUED, ClusterState.STUCK)
"""What is in an unknown state may be running."""


def pick_live_row(duplicates: Sequence[LiveRow]) -> tuple[LiveRow, Sequence[LiveRow]]:
    """The row that counts, and the others: the most alive; then the newest batch, whose dependencies are the right
    ones; then the lowest id."""
    if len(duplicates) == 1:
        return duplicates[0], ()
    first, *others = sorted(
        duplicates, key=lambda live: (MOST_ALIVE_FIRST.index(live.state), -live.intended_at, _parse_id(live.row.id))
    )
    return first, others


def _parse_id(job: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in job.split("_"))


def _observe_live(live: LiveRow) -> Observation:
    row, awaited = live.row, ""
    if live.state is ClusterState.UNKNOWN:
        message = f"in a state unknown here: {row.state}"
    elif row.state == "PENDING":
        message = explain_reason(row.reason)
        awaited = list_awaited_jobs(row.reason, row.dependency)
    else:
        message = STATE_WORDS.get(row.state, "")
    behind = row.state == "PENDING" and row.reason == "Dependency"
    return Observation(state=live.state, id=row.id, waits_for_parents=behind, message=message, awaited=awaited)


def _observe_end(row: AccountRow) -> Observation:
    knows = row.state in {"COMPLETED", "FAILED"} and not row.signal
    return Observation(
        state=ClusterState.ENDED, id=row.id, returncode=row.exit_code if knows else None, message=describe_end(row)
    )


def _unknown(message: str) -> Observation:
    return Observation(state=ClusterState.UNKNOWN, message=message)
