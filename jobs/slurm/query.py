"""One query of a sweep on Slurm: the ledgers, one squeue and one sacct, judged together; and noting what is settled."""

import contextlib
import json
import os
import pwd
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import EllipsisType
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.observation import ClusterState, Observation
from jobs.processes import read_boot_id, read_user_name
from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.reconcile.failures import classify_slurm_state
from jobs.reconcile.snapshot import ClusterReport
from jobs.reconcile.truth import NO_ACCOUNTING
from jobs.slurm.batch_ledger import GIVEN_UP, BatchHistory, BatchLedger, is_of_another_machine, read_shared_history
from jobs.slurm.batches import KnownBatch, build_task_id
from jobs.slurm.client import SlurmClient
from jobs.slurm.noted_endings import MergedRecords, sort_records
from jobs.slurm.observe import ReconcileResult, reconcile_answers
from jobs.slurm.parsing import AccountRow, HiddenUsers, QueueRow, SlurmAnswer, SlurmAnswers, parse_config
from jobs.slurm.script import parse_script_tasks
from jobs.slurm.site.chosen_cluster import resolve_cluster
from jobs.slurm.site.site_facts import SiteFacts
from jobs.slurm.states import MAY_RUN_AGAIN, OVER, SURELY_OVER, is_over
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.ledger import list_ledger_files
from jobs.store.paths import SAFE_NAME, Store, open_replacement
from jobs.store.reading import parse_object, read_file
from jobs.store.results import list_names


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSnapshot:
    """The ledgers, Slurm's answers, and what both say together."""

    batch_history: BatchHistory
    answers: SlurmAnswers
    reconciled: ReconcileResult

    def build_report(self) -> ClusterReport:
        """With all executions that are known to have ended: those noted before, and those of these answers."""
        return ClusterReport(
            observations=self.reconciled.observations,
            accounting_records=MergedRecords(self.batch_history.accounting_records, self.reconciled.accounting_records),
            remarks=tuple(self.reconciled.remarks),
            unaccounted=self.reconciled.unaccounted,
            accounting_problem=self._explain_no_accounting(),
            sent_phases={
                key: batch.phase
                for batch in self.batch_history.batches.values()
                if batch.id
                for key in batch.tasks.values()
            },
            batches={batch.name: batch.tasks.values() for batch in self.batch_history.batches.values()},
        )

    def _explain_no_accounting(self) -> str:
        if self.answers.accounting.absent:
            return NO_ACCOUNTING
        return "sacct does not answer" if self.answers.accounting.problem else ""


def load_cluster_report(
    store: Store,
    sweep: str,
    keys: Collection[str],
    timeouts: SlurmTimeouts,
    *,
    recent_answers: bool,
    whole_account: bool,
    clock: Clock = SYSTEM_CLOCK,
) -> ClusterReport:
    """For readers: nothing is noted, sent or taken out.

    With `recent_answers` the last answers serve where they are recent and nothing was sent since; with `whole_account`
    sacct is asked about everything that was ever sent, not only about what is not settled.
    """
    history = load_batch_history(store, sweep, keys)
    path = store.locate_sweep(sweep).slurm_answers
    answers, age = None, 0.0
    if recent_answers:
        sent = max((max(batch.intended_at, batch.sent_at) for batch in history.batches.values()), default=0.0)
        answers = read_fresh_answers(path, now := clock.now(), timeouts, not_before=sent)
        age = now - answers.taken_at if answers else 0.0
    if answers is None:
        mark = read_answers_mark(path)
        client = SlurmClient(timeouts, cluster=find_cluster(history.batches.values(), timeouts))
        client.kept = facts = SiteFacts(client, store, read_user_name(), clock=clock)
        answers = query_answers(client, history, settled_too=whole_account, clock=clock)
        if not whole_account:
            save_answers(path, answers, unless_changed=mark)
            facts.save()
    return replace(build_slurm_snapshot(sweep, history, answers, timeouts).build_report(), answer_age_seconds=age)


def find_cluster(batches: Iterable[KnownBatch], timeouts: SlurmTimeouts) -> str:
    """Its name, empty for the default one. Raises ClusterChoiceError."""

    def read_default_name() -> str:
        config = parse_config(SlurmClient(timeouts).run("scontrol", "show", "config").text)[0]
        return config.get("ClusterName", "")

    return resolve_cluster(batches, os.environ, read_default_name)


def load_batch_history(
    store: Store, sweep: str, keys: Collection[str], lead_seconds: float | None = None
) -> BatchHistory:
    """The sweep's ledgers, and those of the store's other sweeps as far as they share jobs with it.

    `lead_seconds`: as for `read_batch_history`; for those who decide.
    """
    own = store.locate_sweep(sweep).ledger
    others = [store.sweeps / name / own.name for name in sorted(list_names(store.sweeps)) if name != own.parent.name]
    return read_shared_history(own, others, keys, lead_seconds)


def has_writers_elsewhere(store: Store) -> bool:
    """Whether any sweep's ledger has lines by the clock of another machine."""
    folders = [store.locate_sweep(name).ledger for name in list_names(store.sweeps) if SAFE_NAME.fullmatch(name)]
    return any(is_of_another_machine(path) for folder in folders for path in list_ledger_files(folder))


def query_peak_memory(
    store: Store, sweep: str, keys: Collection[str], timeouts: SlurmTimeouts, executions: Collection[AccountingRecord]
) -> dict[tuple[str, float], float]:
    """The most memory that one task of each execution used, in bytes, by (id, submitted_at); by one sacct more.

    An execution is absent where Slurm sampled nothing. Raises ClusterChoiceError.
    """
    history = load_batch_history(store, sweep, keys)
    client = SlurmClient(timeouts, cluster=find_cluster(history.batches.values(), timeouts))
    found: dict[tuple[str, float], float] = {}
    steps = client.query_step_memory({each.id for each in executions})
    for each in executions:
        end = each.ended_at or float("inf")
        own = [step for step in steps if step.id == each.id and each.started_at <= step.started_at <= end]
        if own:
            found[each.id, each.submitted_at] = max(step.largest_bytes for step in own)
    return found


def query_answers(
    client: SlurmClient, history: BatchHistory, *, settled_too: bool = False, clock: Clock = SYSTEM_CLOCK
) -> SlurmAnswers:
    """One squeue for everybody's jobs, one sacct for the batches that are not settled; both at the same time.

    `settled_too`: sacct for all batches, for exact hours: after trouble slurmdbd rewrites rows that were final before.

    A second sacct, by name, only where an sbatch gave no answer and its batch is not in the queue; with `settled_too`
    also for such batches that were given up. A second squeue, only where a job has left the queue and sacct does not
    report its end yet; a third, by name, for a batch without an answer that neither knows.
    """
    moment = clock.now()
    batches = list(history.batches.values()) if settled_too else history.list_open_batches()
    ids = [batch.id for batch in batches if batch.id]
    users, nameless = select_users(history)
    queue, accounting = client.query_queue_and_accounting(users, ids)
    queue = add_jobs_by_name(client, nameless, queue)
    queue = add_recent_jobs(client, history, queue, accounting)
    others = list_other_senders(history, queue)
    hidden = client.query_hidden_users(read_user_name(), others) if queue.ok else HiddenUsers()
    accounting = add_unknown_submits(client, history, queue, accounting, given_up_too=settled_too)
    queue = add_ended_unknown_submits(client, history, queue, accounting)
    controller_time = client.query_controller_time() if has_ends_to_date(history, queue, accounting) else 0.0
    return SlurmAnswers(queue, accounting, moment, hidden, controller_time)


# Why: docs/decisions.md, D116
def has_ends_to_date(history: BatchHistory, queue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]) -> bool:
    """Whether it matters how long ago some end was: the controller's clock stamped it, which may not be as ours.

    It does not for jobs that are in the queue again, nor for those whose end is noted.
    """
    if any(row.state in OVER for row in queue.rows):
        return True
    doubtful = [
        (row.name, key)
        for row in accounting.rows
        if row.name in history.batches and is_over(row)
        for key in find_undecided(history.batches[row.name], row)
    ]
    if not doubtful:
        return False
    live = {key for _, key in find_shown_jobs(history, queue)}
    settled = history.list_settled()
    return any(key not in live and (name, key) not in settled for name, key in doubtful)


def find_undecided(batch: KnownBatch, row: AccountRow) -> Collection[str]:
    """Keys of jobs that the row of an execution that is over does not surely end."""
    key = batch.find_key(row.id)
    if key is None:
        return batch.tasks.values()  # a row of the whole array
    return [key] if row.shared or row.state in MAY_RUN_AGAIN else []


def find_shown_jobs(history: BatchHistory, queue: SlurmAnswer[QueueRow]) -> set[tuple[str, str]]:
    """(batch name, key) of the jobs that the queue holds."""
    rows = [row for row in queue.rows if row.name in history.batches and row.state not in OVER]
    found = ((row.name, history.batches[row.name].find_key(row.id)) for row in rows)
    return {(name, key) for name, key in found if key is not None}


def list_other_senders(history: BatchHistory, queue: SlurmAnswer[QueueRow]) -> set[str]:
    """Users other than the asking one of whose jobs some is neither noted as ended nor in the queue, as it is shown."""
    known = history.list_settled() | find_shown_jobs(history, queue)
    return {batch.user for batch in list_unsettled_batches(history, known)} - {read_user_name()}


def list_unsettled_batches(history: BatchHistory, known: Collection[tuple[str, str]]) -> list[KnownBatch]:
    """Batches that were or may have been sent, and of which some task is not among the `known` (batch name, key)."""
    return [
        batch
        for batch in history.batches.values()
        if not batch.not_submitted_at and any((batch.name, key) not in known for key in batch.tasks.values())
    ]


# Why: docs/decisions.md, D103
def select_users(history: BatchHistory) -> tuple[set[str], list[str]]:
    """Whose jobs squeue is asked for, and the names of batches whose sender this system does not know (any more).

    Only for batches that are not settled. squeue takes no user that the system has no name for, not even by number and
    not as `--me`: nobody means everybody.
    """
    own = read_user_name()
    if not is_known_user(own):
        return set(), []
    open_batches = list_unsettled_batches(history, history.list_settled())
    known = {user for user in {batch.user for batch in open_batches} if is_known_user(user)}
    return known | {own}, [batch.name for batch in open_batches if batch.user not in known]


def is_known_user(name: str) -> bool:
    """Whether Slurm's programs on this machine can find the user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def add_jobs_by_name(
    client: SlurmClient, names: Collection[str], queue: SlurmAnswer[QueueRow]
) -> SlurmAnswer[QueueRow]:
    """Adds the unfinished jobs of these batches."""
    if not names or not queue.ok:
        return queue
    found = client.query_queue_by_name(names)
    seen = {row.id for row in queue.rows}
    return SlurmAnswer(rows=(*queue.rows, *(row for row in found.rows if row.id not in seen))) if found.ok else found


# Why: docs/decisions.md, D36
def add_recent_jobs(
    client: SlurmClient, history: BatchHistory, queue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]
) -> SlurmAnswer[QueueRow]:
    """Adds what the controller remembers of jobs that left the queue and of whose end sacct does not tell (yet)."""
    if not queue.ok:
        return queue
    over = (row for row in accounting.rows if is_over(row))
    known = history.batches
    rows = (row for rows in (queue.rows, over) for row in rows if row.name in known)
    found = {(row.name, known[row.name].find_key(row.id)) for row in rows}
    settled = history.list_settled()
    tasks = (
        (batch, index, key) for batch in history.list_open_batches() for index, key in batch.tasks.items() if batch.id
    )
    missed = {
        build_task_id(batch.id, index, is_single=batch.is_single)
        for batch, index, key in tasks
        if key not in batch.withdrawn and (batch.name, key) not in found and (batch.name, key) not in settled
    }
    if not missed:
        return queue
    remembered = client.query_recent_jobs(missed)
    seen = {row.id for row in queue.rows}  # of what is in both answers, one row counts
    ours = (row for row in remembered.rows if row.name in known and row.id not in seen)  # ids may be given again
    return SlurmAnswer(rows=(*queue.rows, *ours)) if remembered.ok else remembered


# Why: docs/decisions.md, D224
def add_ended_unknown_submits(
    client: SlurmClient, history: BatchHistory, queue: SlurmAnswer[QueueRow], accounting: SlurmAnswer[AccountRow]
) -> SlurmAnswer[QueueRow]:
    """Adds what the controller remembers by name of batches whose sbatch gave no answer, and that neither the queue nor
    sacct shows: their jobs may have ended before sacct heard of them."""
    shown = {row.name for rows in (queue.rows, accounting.rows) for row in rows}
    unknown = [batch.name for batch in history.batches.values() if batch.submit_unknown and batch.name not in shown]
    if not unknown or not queue.ok:
        return queue
    found = client.query_queue_by_name(unknown, ended_too=True)
    return SlurmAnswer(rows=(*queue.rows, *found.rows)) if found.ok else found


def add_unknown_submits(
    client: SlurmClient,
    history: BatchHistory,
    queue: SlurmAnswer[QueueRow],
    accounting: SlurmAnswer[AccountRow],
    *,
    given_up_too: bool = False,
) -> SlurmAnswer[AccountRow]:
    """Adds what sacct knows by name of batches whose sbatch gave no answer and which are not in the queue.

    `given_up_too`: also of those that were looked for in vain before. A row may come after that, and its hours count.
    """
    queued = {row.name for row in queue.rows}
    unknown = [
        batch
        for batch in history.batches.values()
        if (batch.submit_unknown and batch.name not in queued) or (given_up_too and batch.given_up)
    ]
    if not unknown or not accounting.ok:
        return accounting
    found = client.query_accounting_by_name(
        [batch.name for batch in unknown], min(batch.intended_at for batch in unknown)
    )
    if not found.ok:
        return SlurmAnswer(rows=accounting.rows, problem=found.problem, absent=found.absent)
    return SlurmAnswer(rows=(*accounting.rows, *found.rows))


def build_slurm_snapshot(
    sweep: str,
    history: BatchHistory,
    answers: SlurmAnswers,
    timeouts: SlurmTimeouts,
    missing_since: Mapping[str, float] | None = None,
) -> SlurmSnapshot:
    """`missing_since`: what the query before missed (`ReconcileResult.missing_since`)."""
    result = reconcile_answers(
        list(history.batches.values()),
        answers.queue,
        answers.accounting,
        now=answers.taken_at,
        timeouts=timeouts,
        sweep=sweep,
        missing_since=missing_since,
        settled=history.list_settled(),
        hidden=answers.hidden,
        cluster_now=answers.cluster_now,
    )
    if answers.accounting.problem and not answers.accounting.absent:
        problem = answers.accounting.problem
        result.remarks.append(f"sacct does not answer ({problem}): only their own records say how jobs ended")
    by_message: dict[str, Observation] = {}
    noted = history.accounting_records
    for key in noted:
        if key in result.observations:
            continue
        if noted.is_plain(key):
            message = noted.read_last_message(key)
            if message not in by_message:
                by_message[message] = Observation(state=ClusterState.ENDED, message=message)
            result.observations[key] = by_message[message]
            continue
        last = select_last_end(sort_records([*noted[key], *result.accounting_records.get(key, ())]))
        result.observations[key] = Observation(
            state=ClusterState.ENDED,
            id=last.id if last.doubt else "",
            message=last.message,
            doubt=last.doubt,
            vouched_from=last.submitted_at if last.doubt else 0.0,
            batch=last.batch if last.doubt else "",
        )
    return SlurmSnapshot(batch_history=history, answers=answers, reconciled=result)


def select_last_end(records: Sequence[AccountingRecord]) -> AccountingRecord:
    """The newest (`records`: oldest first). A row that came after all ends the doubt about how its job ended."""
    told = {(each.id, each.batch) for each in records if each.state in SURELY_OVER and not each.remembered}
    return next(each for each in reversed(records) if not each.doubt or (each.id, each.batch) not in told)


def save_settled(found: SlurmSnapshot, ledger: BatchLedger, client: SlurmClient, timeouts: SlurmTimeouts) -> str:
    """Notes what a query has settled. Returns a problem in one line if jobs are queued that nobody can name."""
    for name, job_id in found.reconciled.adopted.items():
        ledger.write_sent(name, job_id)
    for name in found.reconciled.not_submitted:
        ledger.write_not_submitted(name, GIVEN_UP)
    ledger.write_ended(iter_newly_ended(found, timeouts))
    for name, job_id in found.reconciled.unknown_batches.items():
        tasks = parse_script_tasks(client.query_batch_script(job_id) or "")
        if not tasks:
            return f"job {job_id} ({name}) is in the queue, but neither a ledger nor its script says what it runs"
        row = next(row for row in found.answers.queue.rows if row.name == name)
        ledger.write_adopted_intent(
            KnownBatch(
                name=name,
                phase="",
                tasks=tasks,
                user=row.user,
                intended_at=found.answers.taken_at,
                is_single="_" not in row.id,
            )
        )
        ledger.write_sent(name, job_id)
    return ""


def iter_newly_ended(found: SlurmSnapshot, timeouts: SlurmTimeouts) -> Iterable[AccountingRecord]:
    """Records of jobs that are over for good and not noted yet; one of our own making for a job that left no row."""
    history, accounting = found.batch_history, found.answers.accounting
    noted = {
        (each.id, each.batch, each.submitted_at)
        for key in found.reconciled.accounting_records
        for each in history.accounting_records.get(key, ())
        if not each.remembered  # the row of the same execution is noted when it comes
    }
    closed = set(history.list_settled())
    over = find_ended_jobs(found)
    for records in found.reconciled.accounting_records.values():
        for record in records:
            if (record.batch, record.key) in over and (record.id, record.batch, record.submitted_at) not in noted:
                closed.add((record.batch, record.key))
                yield record
    if accounting.ok or accounting.absent:
        missed = [(history.batches[name], key) for name, key in over if (name, key) not in closed]
        now = found.answers.taken_at
        missed = [(batch, key) for batch, key in missed if not can_arrive_late(batch, key, now, timeouts)]
        for batch, key in missed:
            doubt = found.reconciled.observations[key].doubt
            yield build_lost_record(batch, key, accounted=accounting.ok, doubt=doubt)


def find_ended_jobs(found: SlurmSnapshot) -> set[tuple[str, str]]:
    """(batch, key) of the jobs that no longer live in any batch."""
    ended = {key for key, seen in found.reconciled.observations.items() if seen.state is ClusterState.ENDED}
    known = (batch for batch in found.batch_history.batches.values() if batch.id)
    return {(batch.name, key) for batch in known for key in batch.tasks.values() if key in ended}


def can_arrive_late(batch: KnownBatch, key: str, now: float, timeouts: SlurmTimeouts) -> bool:
    """Whether the job was taken out so lately that sacct may still report its end: it may have begun just before."""
    return now - batch.withdrawn.get(key, float("-inf")) < timeouts.missing_job_s


def build_lost_record(batch: KnownBatch, key: str, *, accounted: bool, doubt: str = "") -> AccountingRecord:
    """Closes a job that no row of Slurm's reports. `doubt`: why nobody can say whether a person cancelled it."""
    # Without accounting no end leaves a row. One that we did not bring about counts as killed, so that a job which dies
    # before it leaves a trace in the store is not sent for ever.
    return AccountingRecord(
        id=batch.build_task_id(key),
        batch=batch.name,
        key=key,
        state=LOST,
        failure=classify_slurm_state(LOST, withdrawn=key in batch.withdrawn, accounted=accounted),
        submitted_at=batch.sent_at,
        message="" if accounted else "gone from Slurm's queue without a trace; there is no accounting to ask",
        doubt=doubt,
    )


# Slurm's last answers are kept on disk, so that people who ask for a sweep's status again and again do not burden the
# controller. For showing only: nothing is ever decided or sent on such an answer.

FORMAT = 3
"""Files with another number are skipped."""


AnswersMark = tuple[int, int, int] | None
"""Which content the file of kept answers has; None: there is no file. Marks are equal or not, and tell no order."""


def save_answers(path: Path, answers: SlurmAnswers, *, unless_changed: AnswersMark | EllipsisType = ...) -> None:
    """Writes both answers, whole or not at all. A store that refuses the write is no error: Slurm is asked again.

    `unless_changed`: the file's mark before Slurm was asked. Where it has another one now, nothing is written: somebody
    may have changed the queue meanwhile, and these answers do not know of that.
    """
    if unless_changed is not ... and read_answers_mark(path) != unless_changed:
        return
    content = {
        "format": FORMAT,
        "time": answers.taken_at,
        "controller_time": answers.controller_time,
        "user": read_user_name(),
        "machine": read_boot_id(),
        "hidden": [sorted(users) for users in answers.hidden],
        "queue": _serialize_answer(answers.queue),
        "accounting": _serialize_answer(answers.accounting),
    }
    with contextlib.suppress(OSError), open_replacement(path, lasting=False) as unfinished:
        unfinished.write_text(json.dumps(content))


def read_answers_mark(path: Path) -> AnswersMark:
    """Of the file as it is now on the server: opened, since a client of NFS may know an older state without that."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


# Why: docs/decisions.md, D217
def drop_answers(store: Store, sweep: str) -> None:
    """The kept answers serve nobody any more: this sweep's, and those of the store's others, which may share jobs.

    For whoever changes the queue. What takes their place is no answer, and tells a reader who is asking Slurm at the
    moment not to keep what it gets.
    """
    others = [store.sweeps / name / store.locate_sweep(sweep).slurm_answers.name for name in list_names(store.sweeps)]
    for path in {store.locate_sweep(sweep).slurm_answers, *(other for other in others if other.exists())}:
        try:
            with open_replacement(path, lasting=False) as unfinished:
                unfinished.write_text(json.dumps({"format": FORMAT, "dropped": os.urandom(16).hex()}))
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()  # a full disk refuses the one and not the other


DROPPED_BYTES = 1_000
"""What stands in the place of dropped answers is smaller; answers are not, and may be many megabytes."""


def is_dropped(path: Path) -> bool:
    """Whether somebody has changed the queue since answers were kept there last."""
    try:
        return path.stat().st_size < DROPPED_BYTES and "dropped" in parse_object(read_file(path))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def read_fresh_answers(
    path: Path, now: float, timeouts: SlurmTimeouts, *, not_before: float = 0.0
) -> SlurmAnswers | None:
    """The kept answers if they are at most `cache_s` old, or `recheck_s` if one of them failed.

    `not_before`: when something was last sent or cancelled (Unix seconds); older answers do not know of it.
    None also for a file that is absent, torn, of the future or of another machine's clock, and for what another user
    was shown of a cluster that hides jobs: there each user sees other rows.
    """
    try:
        content = parse_object(read_file(path))
        if content["format"] != FORMAT:
            return None
        kept = SlurmAnswers(
            SlurmAnswer(rows=tuple(map(QueueRow._make, content["queue"]["rows"])), **_parse_state(content["queue"])),
            SlurmAnswer(
                rows=tuple(map(AccountRow._make, content["accounting"]["rows"])), **_parse_state(content["accounting"])
            ),
            float(content["time"]),
            HiddenUsers(*map(frozenset, content["hidden"])),
            float(content["controller_time"]),
        )
        is_partial = any(kept.hidden) and content.get("user") != read_user_name()
        is_of_another_clock = content["machine"] != read_boot_id()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    if is_partial or is_of_another_clock:
        return None
    good = kept.queue.ok and (kept.accounting.ok or kept.accounting.absent)
    limit = timeouts.cache_s if good else min(timeouts.cache_s, timeouts.recheck_s)
    return kept if not_before <= kept.taken_at and 0 <= now - kept.taken_at <= limit else None


def _serialize_answer(answer: SlurmAnswer[Any]) -> dict[str, Sequence[Any] | str | bool]:
    return {"rows": answer.rows, "problem": answer.problem, "absent": answer.absent}


def _parse_state(content: dict[str, Any]) -> dict[str, Any]:
    return {"problem": str(content["problem"]), "absent": bool(content["absent"])}
