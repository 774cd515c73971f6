"""Judges what squeue and sacct say of the batches that the ledger knows. Pure: nothing is asked here.

A job is recognised by its job name (the batch's) and its array index, never by its id alone: after a crash of the
controller ids are given again. A live row outweighs all that is older. Absence from the queue means something only in a
good answer, some time after sbatch, and when two queries agree; without squeue only a final row of sacct proves an end.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import CANCELLED_IN_QUEUE, AccountingRecord
from jobs.reconcile.failures import classify_slurm_state
from jobs.reconcile.truth import NO_WORD, ClusterEvidence, ClusterFacts, QueueSight, RecordSight, Truth, judge_evidence
from jobs.slurm.batches import KnownBatch, parse_sweep_name
from jobs.slurm.parsing import AccountRow, HiddenUsers, QueueRow, SlurmAnswer
from jobs.slurm.states import (
    STATE_WORDS,
    STUCK_REASON,
    SURELY_OVER,
    build_accounting_record,
    build_remembered_record,
    classify_queue_row,
    describe_end,
    explain_reason,
    is_cancelled_in_queue,
    is_hopeless,
    is_over,
    list_awaited_jobs,
)
from jobs.slurm.timeouts import SlurmTimeouts

NOBODY_HIDDEN = HiddenUsers()
UNSEEN = {RecordSight.HIDDEN, RecordSight.SILENT}
"""There may be executions of which neither the accounting nor the store shows anything."""
SAME_SCANCEL_S = 2.0
"""Ends of tasks that one scancel took out lie no further apart; Slurm's times are whole seconds."""


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
    unaccounted: dict[str, str] = field(default_factory=dict)
    """Keys of jobs of which the accounting may have executions that it does not show, and why it does not."""
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
    hidden: HiddenUsers = NOBODY_HIDDEN,
    cluster_now: float = 0.0,
) -> ReconcileResult:
    """What the answers say of every job of the batches (any order).

    `queue` is of all users who have sent batches; `accounting` of all batches that are not settled, by id, and of those
    whose sbatch gave no answer, by name. `missing_since`: that of the previous query. `settled`: (batch name, key) of
    jobs whose end was noted before; `accounting` need not have rows of them. `now` is by the clock of this machine,
    which stamps the ledger; `cluster_now` by the clock that stamps Slurm's times, if that is known.
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
        hidden=hidden,
        cluster_now=cluster_now or now,
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
    hidden: HiddenUsers
    cluster_now: float
    shown: set[str] = field(default_factory=set)
    """Names of batches of which squeue shows something."""
    live: dict[str, list[LiveRow]] = field(default_factory=dict)
    """By key; more than one where a job was sent twice."""
    left: dict[tuple[str, str], QueueRow] = field(default_factory=dict)
    """squeue's row by (batch name, key) of jobs that have ended and that the controller has not forgotten yet."""
    arrays: set[tuple[str, str]] = field(default_factory=set)
    """(batch name, id) of the arrays of which the controller still has some task."""
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
            self.shown.add(row.name)
            self.arrays.add((row.name, array))
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
            elif (
                self._is_in_sight(batch)
                and batch.submit_unknown
                and answered
                and self.now - batch.intended_at > self.timeouts.unknown_submit_s
            ):
                self.result.not_submitted.append(batch.name)

    def _is_in_sight(self, batch: KnownBatch) -> bool:
        return batch.user not in self.hidden.queue | self.hidden.records

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
        if not self._is_in_sight(batch):
            words = f"sbatch gave {batch.user} no answer, and jobs of {batch.user} are hidden from you (PrivateData)"
            return Observation(
                state=ClusterState.UNKNOWN,
                message=words,
                vouched_from=batch.intended_at,
                batch=batch.name,
                hidden_owner=batch.user,
            )
        problem = self.queue.problem or (self.accounting.problem if not self.accounting.absent else "")
        return _unknown(f"{words} ({problem})" if problem else words)

    def _observe_missing(self, batch: KnownBatch, key: str) -> Observation | None:
        """A job that was sent and has no row in squeue's answer. None: its end was noted before."""
        if (batch.name, key) in self.settled:
            return None
        row, shared = self.newest.get((batch.name, key)), self.shared.get((batch.name, key))
        if row is None and shared is not None and is_over(shared) and self._is_old(shared):
            row = shared
        first = self._find_first_missed(batch, key)
        seen = self._collect_evidence(batch, key, row, first)
        facts = judge_evidence(seen)
        if not facts.accounted.known and (seen.queue is QueueSight.HIDDEN or seen.record in UNSEEN):
            self.result.unaccounted[key] = facts.accounted.reason
        if not facts.ended.known:
            if facts.ended.reason == NO_WORD:
                self.result.missing_since[key] = first
            return self._observe_unknown(batch, key, seen, facts)
        if row is not None and row is shared:
            self._add_record(batch, key, row)
        return self._observe_end(batch, key, row, facts)

    def _find_first_missed(self, batch: KnownBatch, key: str) -> float:
        """When the job was first missed; now, if that was before it was sent once more."""
        first = self.missing_before.get(key, self.now)
        return self.now if first < max(batch.sent_at, batch.intended_at) else first

    def _collect_evidence(self, batch: KnownBatch, key: str, row: AccountRow | None, first: float) -> ClusterEvidence:
        """What both answers show of the job. `first`: when it was first missed."""
        left = self.left.get((batch.name, key))
        since = max(batch.sent_at, batch.intended_at)
        missed = self.now - since >= self.timeouts.missing_job_s and self.now - first >= self.timeouts.recheck_s
        return ClusterEvidence(
            queue=self._find_queue_sight(batch),
            record=self._find_record_sight(batch, row),
            record_words=describe_end(row) if row is not None else "",
            record_is_old=row is not None and self._is_old(row),
            record_is_due=left is not None and self._is_record_due(batch, left, row),
            cancelled_by_person=row is not None and row.state == "CANCELLED" and bool(row.by_uid),
            remembered=left.state if left is not None else "",
            remembered_in_queue=left is not None and is_cancelled_in_queue(left),
            forgotten_in_queue=missed and row is None and left is None and self._was_forgotten_in_queue(batch),
            remembered_dependency=left is not None and left.reason == STUCK_REASON,
            withdrawn=key in batch.withdrawn,
            missed_for_long=missed,
            owner=batch.user,
            problem=self.queue.problem or self.accounting.problem,
        )

    def _is_record_due(self, batch: KnownBatch, left: QueueRow, row: AccountRow | None) -> bool:
        """Whether sacct may still tell of an end that the controller remembers.

        Only sacct says who cancelled a job, and the attempt's own record of a stop on request reads as if the job were
        to go on. Tasks that were cancelled before they started often leave no row at all: they are not waited for long.
        """
        if self.accounting.absent:
            return False
        if row is None and is_cancelled_in_queue(left):
            unnamed = self.accounting.ok and self._find_canceller(batch, left.ends_at) is None
            return self._is_younger(left, self.timeouts.missing_job_s if unnamed else self.timeouts.recheck_s)
        return self.accounting.ok and self._is_younger(left, self.timeouts.accounting_lag_s)

    def _is_younger(self, left: QueueRow, seconds: float) -> bool:
        return self.cluster_now - left.ends_at < seconds

    def _was_forgotten_in_queue(self, batch: KnownBatch) -> bool:
        """Whether a task of the batch of which nothing is left was cancelled before it started.

        Of an array that waits as one, the controller forgets a cancelled task at once. What it lost in a crash it lost
        with the whole array; what ran has a row.
        """
        if not self.accounting.ok:
            return False
        return (batch.name, self._find_id(batch)) in self.arrays or self._find_canceller(batch) is not None

    def _is_old(self, row: AccountRow) -> bool:
        """Whether the row's end lies so far back that a requeued job would be in the queue again."""
        return self.cluster_now - row.ended_at >= self.timeouts.recheck_s

    def _find_queue_sight(self, batch: KnownBatch) -> QueueSight:
        """Of a job of the batch that no live row shows."""
        if not self.queue.ok:
            return QueueSight.SILENT
        hidden = batch.user in self.hidden.queue and batch.name not in self.shown
        return QueueSight.HIDDEN if hidden else QueueSight.NOT_SHOWN

    def _find_record_sight(self, batch: KnownBatch, row: AccountRow | None) -> RecordSight:
        if row is not None and is_over(row):
            final = row.state in SURELY_OVER and not row.shared  # a line for several tasks may be out of date
            return RecordSight.FINAL if final else RecordSight.PASSING
        if self.accounting.absent:
            return RecordSight.SWITCHED_OFF
        if not self.accounting.ok:
            return RecordSight.SILENT
        if row is not None:
            return RecordSight.OPEN
        return RecordSight.HIDDEN if batch.user in self.hidden.records else RecordSight.NONE

    def _observe_unknown(self, batch: KnownBatch, key: str, seen: ClusterEvidence, facts: ClusterFacts) -> Observation:
        if seen.queue is QueueSight.SILENT and key in self.missing_before:
            self.result.missing_since[key] = self.missing_before[key]  # this query says nothing
        hidden = seen.queue is QueueSight.HIDDEN
        return Observation(
            state=ClusterState.UNKNOWN,
            message=facts.ended.reason,
            vouched_from=max(batch.sent_at, batch.intended_at) if hidden else 0.0,
            batch=batch.name if hidden else "",
            hidden_owner=batch.user if hidden else "",
        )

    def _observe_end(self, batch: KnownBatch, key: str, row: AccountRow | None, facts: ClusterFacts) -> Observation:
        """A job that is over. Without a row, a record of what is known of its end is made where that says something."""
        if row is not None and is_over(row):
            return _observe_row(row)
        left = self.left.get((batch.name, key))
        if facts.cancelled.truth is Truth.YES:
            if left is not None and not is_cancelled_in_queue(left):
                self.result.accounting_records.setdefault(key, []).append(build_remembered_record(left, key))
                return Observation(state=ClusterState.ENDED, id=left.id, message=facts.cancelled.reason)
            moment = left.ends_at if left is not None else 0.0
            return self._observe_cancelled(batch, key, self._find_canceller(batch, moment), moment)
        doubt = "" if facts.cancelled.known else facts.cancelled.reason
        return Observation(
            state=ClusterState.ENDED,
            id=self._build_task_id(batch, key),
            message=facts.ended.reason,
            doubt=doubt,
            vouched_from=max(batch.sent_at, batch.intended_at) if doubt else 0.0,
            batch=batch.name if doubt else "",
        )

    # Why: docs/decisions.md, D104
    def _observe_cancelled(self, batch: KnownBatch, key: str, uid: int | None, moment: float = 0.0) -> Observation:
        """A job that a person took out of the queue before it started, and of which sacct has no row. `moment`: its end
        (Unix seconds), if the controller remembers it."""
        record = AccountingRecord(
            id=self._build_task_id(batch, key),
            batch=batch.name,
            key=key,
            state=CANCELLED_IN_QUEUE,
            failure=classify_slurm_state(CANCELLED_IN_QUEUE),
            cancelled_by_uid=uid,
            submitted_at=max(batch.sent_at, batch.intended_at),
            ended_at=moment,
            message="cancelled in the queue",
        )
        self.result.accounting_records.setdefault(key, []).append(record)
        return Observation(state=ClusterState.ENDED, id=record.id, message=record.message)

    def _find_canceller(self, batch: KnownBatch, moment: float = 0.0) -> int | None:
        """Who cancelled other tasks of the batch in the queue (at that moment, if there is one), if sacct names one."""
        uids = {
            row.by_uid
            for row in self.accounting.rows
            if row.name == batch.name and row.state == "CANCELLED" and row.by_uid.isdigit() and not row.nodes
            if not moment or abs(row.ended_at - moment) <= SAME_SCANCEL_S
            if batch.find_key(row.id) not in batch.withdrawn
        }
        return int(uids.pop()) if len(uids) == 1 else None

    def _build_task_id(self, batch: KnownBatch, key: str) -> str:
        return replace(batch, id=self._find_id(batch)).build_task_id(key)

    def _find_id(self, batch: KnownBatch) -> str:
        return batch.id or self.result.adopted[batch.name]


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
    return Observation(
        state=live.state,
        id=row.id,
        waits_for_parents=behind,
        message=message,
        awaited=awaited,
        put_aside=row.state == "SPECIAL_EXIT",
        user=row.user,
    )


def _observe_row(row: AccountRow) -> Observation:
    knows = row.state in {"COMPLETED", "FAILED"} and not row.signal
    return Observation(
        state=ClusterState.ENDED, id=row.id, returncode=row.exit_code if knows else None, message=describe_end(row)
    )


def _unknown(message: str) -> Observation:
    return Observation(state=ClusterState.UNKNOWN, message=message)
