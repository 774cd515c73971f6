"""What happened to a job: its executions in the order of time, how each ended, and what followed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.job import Job
from jobs.reconcile.accounting import AccountingRecord, deduplicate_records
from jobs.reconcile.attempts import AttemptRecord, read_finished_attempts
from jobs.reconcile.failures import explain_idle_record
from jobs.reconcile.retries import choose_memory_gib
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.reconcile.unsettled import explain_unknown
from sweep.report.peak_memory import NO_PEAKS, PeakMemory, find_peak_gib, format_peak
from sweep.text_format import format_duration

NOTHING = "nothing"
"""How an execution ended that found nothing to do, or that this project took out of the queue before it started."""

AFTER_LAST_MEANINGS = {
    JobState.QUEUED: "is in the queue again",
    JobState.FAILED: "is not tried again; `sweep resume` gives it a new budget",
    JobState.CANCELLED: "is cancelled; `sweep resume` puts it back",
    JobState.UNKNOWN: "it is not known whether it still runs",
    JobState.BLOCKED: "waits for an ancestor that failed",
    JobState.WAITING: "waits for its parents",
    JobState.INTERRUPTED: "goes on at the next `sweep submit`",
    JobState.READY: "starts at the next `sweep submit`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One execution. Times are Unix seconds."""

    attempt: str
    """Empty if it ended before an attempt began."""
    id: str
    """The cluster's; empty where there is none."""
    node: str
    started_at: float
    seconds: float | None
    """By the attempt's own record, else the cluster's row; None while it runs."""
    ended: str
    """`done`, `running`, `nothing` (it counts for nothing), or the class of the failure."""
    word: str
    """The cluster's own state; empty where it has none."""
    message: str
    from_step: int
    """Of the checkpoint that it began with; -1: none."""
    to_step: int
    """Of the newest checkpoint at its end."""
    then: str
    """What followed."""
    log: str
    """Path; empty where no attempt began."""
    peak_memory_gib: float | None = None
    """The most that Slurm saw one task of a killed execution use; None where it was not asked or does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHistory:
    """One job's."""

    key: str
    state: JobState
    executions: tuple[HistoryEntry, ...]
    memory_gib: float
    """A node, for its next attempt."""
    memory_raised: bool
    resumed_at: float | None
    """When a person last gave it a new budget."""
    not_known: str = ""
    """Why the cluster cannot say what became of it; empty if it can, or if that does not matter any more."""


def build_history(job: Job, snapshot: SweepSnapshot, peaks: PeakMemory = NO_PEAKS) -> JobHistory:
    """From what `snapshot` holds; a finished job's attempts are read now. `peaks`: `read_peak_memory`."""
    evidence = snapshot.runs[job.key]
    endings = snapshot.accounting_records.get(job.key, ())
    outcomes: Sequence[AttemptRecord] = evidence.outcomes
    if evidence.done:
        outcomes = read_finished_attempts(evidence.run, evidence.read_result() or {}, endings)
    state = snapshot.statuses[job.key].state
    memory = choose_memory_gib(job, outcomes)
    rows = [
        build_history_entry(outcome, describe_followup(job, outcomes, place, state), find_peak_gib(outcome, peaks))
        for place, outcome in enumerate(outcomes)
    ]
    rows += [build_idle_entry(ending) for ending in select_unmatched_records(endings, outcomes)]
    return JobHistory(
        key=job.key,
        state=state,
        executions=tuple(sorted(rows, key=lambda row: row.started_at)),
        memory_gib=memory,
        memory_raised=memory > job.resources.memory_gib,
        resumed_at=snapshot.user_requests.get_resumption(job.key).asked_at or None,
        not_known=explain_unknown(snapshot.observed.get(job.key)) if state is JobState.UNKNOWN else "",
    )


def build_history_entry(outcome: AttemptRecord, following: str, peak_gib: float | None = None) -> HistoryEntry:
    """One attempt, or an execution that failed before it."""
    start, end = outcome.start, outcome.end
    return HistoryEntry(
        attempt=start.attempt if outcome.began else "",
        id=start.job_id,
        node=outcome.node,
        started_at=start.started_at,
        seconds=max(0.0, end.ended_at - start.started_at) if end else None,
        ended="running" if end is None else str(end.failure or "done"),
        word=outcome.accounting_record.state if outcome.accounting_record else "",
        message=end.message if end else "",
        from_step=start.checkpoint_step,
        to_step=end.checkpoint_step if end else -1,
        then=following,
        log=str(outcome.paths.log) if outcome.began else "",
        peak_memory_gib=peak_gib,
    )


def select_unmatched_records(
    endings: Sequence[AccountingRecord], outcomes: Sequence[AttemptRecord]
) -> list[AccountingRecord]:
    """Rows of executions that neither failed nor belong to an attempt."""
    known = {outcome.accounting_record for outcome in outcomes}
    return [ending for ending in deduplicate_records(endings) if ending not in known]


def build_idle_entry(ending: AccountingRecord) -> HistoryEntry:
    """An execution that did nothing."""
    return HistoryEntry(
        attempt="",
        id=ending.id,
        node=ending.nodes,
        started_at=ending.began_at if ending.ran else ending.ended_at or ending.submitted_at,
        seconds=float(ending.elapsed_seconds),
        ended=NOTHING,
        word=ending.state,
        message=explain_idle_record(ending),
        from_step=-1,
        to_step=-1,
        then="",
        log="",
    )


def describe_followup(job: Job, outcomes: Sequence[AttemptRecord], place: int, state: JobState) -> str:
    """What followed the execution at `place`; empty for one that runs or finished the job."""
    outcome = outcomes[place]
    if outcome.end is None or (outcome.failure is None and state is JobState.DONE):
        return ""
    last = place == len(outcomes) - 1
    following = next((each for each in outcomes[place + 1 :] if each.began), None)
    words = AFTER_LAST_MEANINGS.get(state, "tried again") if last else "tried again"
    if following is not None:
        step = following.start.checkpoint_step
        words = f"went on from step {step:,}" if step >= 0 else "tried again from the start"
    before, memory = choose_memory_gib(job, outcomes[:place]), choose_memory_gib(job, outcomes[: place + 1])
    if memory == before or (last and state is JobState.FAILED):
        return words
    return f"{words}, with {memory:g} GiB a node"


def format_history(job: Job, history: JobHistory) -> list[str]:
    """The job's history for a reader; empty if nothing has happened yet."""
    if not history.executions and not history.not_known:
        return []
    lines = [f"  {job.phase} {job.key}, {history.state}"]
    for row in history.executions:
        took = f"for {format_duration(row.seconds / 3600)}" if row.seconds is not None else "so far"
        ended = ": ".join(part for part in (row.ended if row.ended != NOTHING else "", row.message) if part)
        follows = f"; {format_peak(row.peak_memory_gib)}" if row.peak_memory_gib is not None else ""
        follows += f"; {row.then}" if row.then else ""
        where = " ".join(part for part in (f"on {row.node}" if row.node else "", row.attempt or row.id) if part)
        lines.append(f"    {format_time(row.started_at)}  {where}  {took}  {ended}{follows}")
    if history.not_known:
        lines.append(f"    not known: {history.not_known}")
    if history.resumed_at is not None:
        lines.append(f"    {format_time(history.resumed_at)}  `sweep resume` gave it a new budget")
    if history.memory_raised:
        lines.append(f"    memory raised from {job.resources.memory_gib:g} to {history.memory_gib:g} GiB a node")
    return lines


def build_history_json(history: JobHistory) -> dict[str, Any]:
    """As JSON types: fields of a job in `sweep explain --json` (docs/json.md)."""
    return {
        "status": history.state.value,
        "history": [asdict(row) for row in history.executions],
        "memory_gib": history.memory_gib,
        "memory_raised": history.memory_raised,
        "resumed_at": history.resumed_at,
        "not_known": history.not_known,
    }


def format_time(seconds: float) -> str:
    """`2026-09-21 13:46:40Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
