"""Judges what squeue and sacct say of the batches that the ledger knows. Pure: nothing is asked here.

A job is told by its job name (the batch's) and its array index, never by its id alone: after a crash of the controller
ids are given again. A live row outweighs all that is older. Absence from the queue means something only in a good
answer, some time after sbatch, and when two looks agree; without squeue only a final row of sacct proves an end.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from jobs.cluster import ClusterState, Observation
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
)
from jobs.slurm.timeouts import SlurmTimeouts

# When one job is in the queue more than once: which copy counts.

MOST_ALIVE_FIRST = (ClusterState.RUNNING, ClusterState.UNKNOWN, ClusterState.QUEUED, ClusterState.STUCK)
"""The most alive first; what is in an unknown state may be running."""


class LiveRow(NamedTuple):
    """A live row of squeue."""

    row: QueueRow
    state: ClusterState
    intended_at: float
    """Unix seconds: when its batch was about to be sent."""


def pick_live_row(copies: Sequence[LiveRow]) -> tuple[LiveRow, Sequence[LiveRow]]:
    """The copy that counts, and the others: the most alive; then the newest batch, whose dependencies are the right
    ones; then the lowest id."""
    if len(copies) == 1:
        return copies[0], ()
    first, *others = sorted(
        copies, key=lambda copy: (MOST_ALIVE_FIRST.index(copy.state), -copy.intended_at, _number(copy.row.id))
    )
    return first, others


def _number(job: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in job.split("_"))


GONE = "Slurm no longer knows it"


@dataclass(slots=True, kw_only=True)
class ReconcileResult:
    """What one look says."""

    observations: dict[str, Observation] = field(default_factory=dict)
    """By key; nothing for keys that are not in Slurm's hands (never sent, refused, noted as ended before)."""
    endings: dict[str, list[AccountingRecord]] = field(default_factory=dict)
    """By key: every execution that sacct has as ended, in sacct's order, also of jobs that run again."""
    adopted: dict[str, str] = field(default_factory=dict)
    """Batch name to id: batches in doubt, or taken for never sent, that were found by name."""
    not_submitted: list[str] = field(default_factory=list)
    """Names of batches in doubt that surely never reached Slurm."""
    unknown_batches: dict[str, str] = field(default_factory=dict)
    """Job name of this sweep to an id: in the queue, and known to no ledger."""
    duplicates: list[str] = field(default_factory=list)
    """Ids of pending copies of jobs that are live elsewhere."""
    missing_since: dict[str, float] = field(default_factory=dict)
    """Keys whose absence must be looked at again, and when they were first missed: `seen_absent` of the next look."""
    stuck_reasons: dict[str, str] = field(default_factory=dict)
    """Keys that are queued and would wait for ever as things are, and why."""
    remarks: list[str] = field(default_factory=list)
    """For people, one line each."""


def reconcile_answers(
    batches: Sequence[KnownBatch],
    queue: SlurmAnswer[QueueRow],
    accounting: SlurmAnswer[AccountRow],
    *,
    now: float,
    patience: SlurmTimeouts,
    sweep: str = "",
    seen_absent: Mapping[str, float] | None = None,
    ended: Collection[tuple[str, str]] = frozenset(),
) -> ReconcileResult:
    """What the answers say of every job of the batches (any order).

    `queue` is of all users who have sent batches; `accounting` of all batches that are not settled, by id, and of those
    in doubt, by name. `seen_absent`: the last look's `absent`. `ended`: (batch name, key) of jobs whose end was noted
    before; `accounting` need not tell of them.
    """
    look = _Reconciler(
        batches=sorted(batches, key=lambda batch: batch.intended_at),
        by_name={batch.name: batch for batch in batches},
        queue=queue,
        accounting=accounting,
        now=now,
        timeouts=patience,
        seen_absent=seen_absent or {},
        ended=frozenset(ended),
    )
    look.sort_queue(sweep or next((parse_sweep_name(batch.name) for batch in batches), ""))
    look.sort_accounting()
    look.find_batches()
    look.reconcile_live()
    look.reconcile_missing()
    return look.reconciled


@dataclass(slots=True, kw_only=True)
class _Reconciler:
    batches: Sequence[KnownBatch]
    """Oldest first."""
    queue: SlurmAnswer[QueueRow]
    accounting: SlurmAnswer[AccountRow]
    now: float
    timeouts: SlurmTimeouts
    seen_absent: Mapping[str, float]
    ended: Collection[tuple[str, str]]
    by_name: Mapping[str, KnownBatch]
    copies: dict[str, list[LiveRow]] = field(default_factory=dict)
    """Live rows by key."""
    last: dict[tuple[str, str], AccountRow] = field(default_factory=dict)
    """Newest row of sacct by (batch name, key)."""
    shared: dict[tuple[str, str], AccountRow] = field(default_factory=dict)
    """The same, of rows that several tasks share."""
    left: dict[tuple[str, str], QueueRow] = field(default_factory=dict)
    """squeue's row by (batch name, key) of jobs that have ended and that the controller has not forgotten yet."""
    ids: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Batch name to the array ids under which it was seen."""
    reconciled: ReconcileResult = field(default_factory=ReconcileResult)

    def sort_queue(self, sweep: str) -> None:
        """Live rows by key; jobs of this sweep that nobody knows."""
        for row in self.queue.rows:
            batch = self.by_name.get(row.name)
            array, _, index = row.id.partition("_")
            if batch is None:
                if sweep and parse_sweep_name(row.name) == sweep:
                    self.reconciled.unknown_batches.setdefault(row.name, array)
                continue
            self.ids[row.name].add(array)
            key = batch.tasks.get(int(index)) if index.isdecimal() else None
            state = classify_queue_row(row)
            if key is not None and state is None:
                self.left[row.name, key] = row
            elif key is not None and state is not None:
                self.copies.setdefault(key, []).append(LiveRow(row, state, batch.intended_at))

    def sort_accounting(self) -> None:
        """Newest row by job; every execution that is over, as an ending."""
        for row in self.accounting.rows:
            batch = self.by_name.get(row.name)
            if batch is None:
                continue
            array, _, index = row.id.partition("_")
            self.ids[row.name].add(array)
            if not index and row.state == "CANCELLED" and row.by_uid:
                # of tasks that were cancelled one by one in the queue, all that is left may be a row of the whole array
                for each, task in batch.tasks.items():
                    self.shared.setdefault((row.name, task), row._replace(id=f"{array}_{each}", shared=True))
            key = batch.tasks.get(int(index)) if index.isdecimal() else None
            if key is None:
                continue
            if row.shared:
                self.shared[row.name, key] = row
                continue
            newest = self.last.get((row.name, key))
            if newest is None or (row.submitted_at, row.started_at) >= (newest.submitted_at, newest.started_at):
                self.last[row.name, key] = row
            if is_over(row):
                self._note_end(batch, key, row)

    def _note_end(self, batch: KnownBatch, key: str, row: AccountRow) -> None:
        self.reconciled.endings.setdefault(key, []).append(
            build_accounting_record(row, key, withdrawn=key in batch.withdrawn)
        )

    def find_batches(self) -> None:
        """Adopts what was found by name; gives up what was looked for long enough."""
        answered = self.queue.ok and (self.accounting.ok or self.accounting.absent)
        for batch in self.batches:
            found = sorted(self.ids.get(batch.name, ()))
            if len(found) > 1 or (found and batch.id and batch.id not in found):
                known = f" (sbatch said {batch.id})" if batch.id else ""
                self.reconciled.remarks.append(f"{batch.name} is in Slurm as {' and '.join(found)}{known}")
            if batch.id:
                continue
            if found:
                self.reconciled.adopted[batch.name] = found[0]
            elif batch.submit_unknown and answered and self.now - batch.intended_at > self.timeouts.unknown_submit_s:
                self.reconciled.not_submitted.append(batch.name)

    def reconcile_live(self) -> None:
        """Jobs that squeue shows."""
        for key, copies in self.copies.items():
            kept, others = pick_live_row(copies)
            self.reconciled.observations[key] = _live(kept)
            if kept.state is ClusterState.QUEUED and is_hopeless(kept.row.reason):
                self.reconciled.stuck_reasons[key] = explain_reason(kept.row.reason)
            for other in others:
                if other.state in {ClusterState.QUEUED, ClusterState.STUCK}:
                    self.reconciled.duplicates.append(other.row.id)
                else:
                    self.reconciled.remarks.append(f"{key} is live twice: {kept.row.id} and {other.row.id}")

    def reconcile_missing(self) -> None:
        """Jobs that squeue does not show, by the newest batch that may have them; one in doubt counts above all."""
        doubtful: dict[str, KnownBatch] = {}
        newest: dict[str, KnownBatch] = {}
        for batch in self.batches:
            if batch.id or batch.name in self.reconciled.adopted:
                newest.update(dict.fromkeys(batch.tasks.values(), batch))
            elif batch.submit_unknown and batch.name not in self.reconciled.not_submitted:
                doubtful.update(dict.fromkeys(batch.tasks.values(), batch))
        for key, batch in (newest | doubtful).items():
            if key in self.copies:
                continue
            observation = self._doubted(batch) if key in doubtful else self._absent(batch, key)
            if observation is not None:
                self.reconciled.observations[key] = observation

    def _doubted(self, batch: KnownBatch) -> Observation:
        moment = datetime.fromtimestamp(batch.intended_at, UTC)
        words = f"sbatch gave no answer at {moment:%Y-%m-%d %H:%M:%S} UTC; looked for by name"
        problem = self.queue.problem or (self.accounting.problem if not self.accounting.absent else "")
        return _unknown(f"{words} ({problem})" if problem else words)

    def _absent(self, batch: KnownBatch, key: str) -> Observation | None:
        """A job that was sent and has no row in squeue's answer. None: its end was noted before."""
        if (batch.name, key) in self.ended:
            return None
        row = self.last.get((batch.name, key))
        if row is not None and row.state in SURELY_OVER and is_over(row):
            return _ended(row)
        if self.queue.ok:
            return self._not_queued(batch, key, row)
        if key in self.seen_absent:
            self.reconciled.missing_since[key] = self.seen_absent[key]  # this was no look: the last one still stands
        return _unknown(f"squeue: {self.queue.problem}")

    def _not_queued(self, batch: KnownBatch, key: str, row: AccountRow | None) -> Observation:
        if row is not None and row.state in MAY_RUN_AGAIN and is_over(row):
            if self.now - row.ended_at >= self.timeouts.recheck_s:
                return _ended(row)
            return _unknown(f"{describe_end(row)}; may be in the queue again in a moment")
        shared = self.shared.get((batch.name, key))
        if (
            row is None
            and shared is not None
            and is_over(shared)
            and self.now - shared.ended_at >= self.timeouts.recheck_s
        ):
            self._note_end(batch, key, shared)
            return _ended(shared)
        if key in batch.withdrawn:
            return Observation(state=ClusterState.ENDED, message="taken out of the queue")
        return self._missed(batch, key, row)

    def _missed(self, batch: KnownBatch, key: str, row: AccountRow | None) -> Observation:
        """Nowhere, or in sacct alone and not as ended (sacct lags; after a crash its rows may never be closed).

        For some minutes after an end that the controller remembers, sacct is waited for: only there it is told who
        cancelled a job, and the attempt's own record of a stop on request reads as if it were to go on.
        """
        left = self.left.get((batch.name, key))
        if left is not None and self.accounting.ok and self.now - left.ends_at < self.timeouts.accounting_lag_s:
            return _unknown(f"ended ({left.state}); sacct does not tell of it yet")
        since = max(batch.sent_at, batch.intended_at)
        first = self.seen_absent.get(key, self.now)
        if first < since:
            first = self.now  # missed before it was sent once more
        if self.now - since >= self.timeouts.missing_job_s and self.now - first >= self.timeouts.recheck_s:
            return Observation(state=ClusterState.ENDED, id=row.id if row else "", message=GONE)
        self.reconciled.missing_since[key] = first
        return _unknown("not in Slurm's queue, and no word of its end yet")


def _live(copy: LiveRow) -> Observation:
    row = copy.row
    if copy.state is ClusterState.UNKNOWN:
        message = f"in a state unknown here: {row.state}"
    elif row.state == "PENDING":
        message = explain_reason(row.reason, row.dependency)
    else:
        message = STATE_WORDS.get(row.state, "")
    behind = row.state == "PENDING" and row.reason == "Dependency"
    return Observation(state=copy.state, id=row.id, waits_for_parents=behind, message=message)


def _ended(row: AccountRow) -> Observation:
    knows = row.state in {"COMPLETED", "FAILED"} and not row.signal
    return Observation(
        state=ClusterState.ENDED, id=row.id, returncode=row.exit_code if knows else None, message=describe_end(row)
    )


def _unknown(message: str) -> Observation:
    return Observation(state=ClusterState.UNKNOWN, message=message)
