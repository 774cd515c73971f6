"""What happened to a job: its executions in the order of time, how each ended, and what followed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from jobs.job import Job
from jobs.reconcile.attempts import Outcome, finished_outcomes
from jobs.reconcile.executions import Ending, distinct
from jobs.reconcile.failures import idle_words
from jobs.reconcile.retries import memory_for
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from sweep.text_format import span

NOTHING = "nothing"
"""How an execution ended that found nothing to do, or never started by our own wish."""

AFTER_LAST = {
    State.QUEUED: "is in the queue again",
    State.FAILED: "is not tried again; `sweep resume` gives it another budget",
    State.CANCELLED: "stays out until resumed",
    State.UNKNOWN: "it cannot be told whether it lives",
    State.BLOCKED: "waits for an ancestor that failed",
    State.WAITING: "waits for its parents",
    State.INTERRUPTED: "goes on at the next submission",
    State.READY: "starts at the next submission",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
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
    """The cluster's own state; empty where it said nothing."""
    message: str
    from_step: int
    """Of the checkpoint that it began with; -1: none."""
    to_step: int
    """Of the newest checkpoint at its end."""
    then: str
    """What followed."""
    log: str
    """Path; empty where no attempt began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One job's."""

    key: str
    state: State
    executions: tuple[Execution, ...]
    memory_gib: float
    """A node, for its next attempt."""
    memory_raised: bool
    resumed_at: float | None
    """When a person last gave it a new budget."""


def history_of(job: Job, picture: Picture) -> History:
    """From what `picture` holds; a finished job's attempts are read now."""
    evidence = picture.evidence[job.key]
    endings = picture.endings.get(job.key, ())
    outcomes: Sequence[Outcome] = evidence.outcomes
    if evidence.result is not None:
        outcomes = finished_outcomes(evidence.run, evidence.result, endings)
    state = picture.statuses[job.key].state
    memory = memory_for(job, outcomes)
    rows = [execution(outcome, then(job, outcomes, place, state)) for place, outcome in enumerate(outcomes)]
    rows += [idle(ending) for ending in without_outcome(endings, outcomes)]
    return History(
        key=job.key,
        state=state,
        executions=tuple(sorted(rows, key=lambda row: row.started_at)),
        memory_gib=memory,
        memory_raised=memory > job.resources.memory_gib,
        resumed_at=picture.wishes.resumed_at.get(job.key),
    )


def execution(outcome: Outcome, following: str) -> Execution:
    """One attempt, or an execution that failed before it."""
    start, end = outcome.start, outcome.end
    return Execution(
        attempt=start.attempt if outcome.began else "",
        id=start.job_id,
        node=outcome.node,
        started_at=start.started_at,
        seconds=max(0.0, end.ended_at - start.started_at) if end else None,
        ended="running" if end is None else str(end.failure or "done"),
        word=outcome.ending.state if outcome.ending else "",
        message=end.message if end else "",
        from_step=start.checkpoint_step,
        to_step=end.checkpoint_step if end else -1,
        then=following,
        log=str(outcome.paths.log) if outcome.began else "",
    )


def without_outcome(endings: Sequence[Ending], outcomes: Sequence[Outcome]) -> list[Ending]:
    """Rows of executions that neither failed nor belong to an attempt."""
    known = {outcome.ending for outcome in outcomes}
    return [ending for ending in distinct(endings) if ending not in known]


def idle(ending: Ending) -> Execution:
    """An execution that did nothing."""
    return Execution(
        attempt="",
        id=ending.id,
        node=ending.nodes,
        started_at=ending.began_at if ending.ran else ending.ended_at or ending.submitted_at,
        seconds=float(ending.elapsed_seconds),
        ended=NOTHING,
        word=ending.state,
        message=idle_words(ending),
        from_step=-1,
        to_step=-1,
        then="",
        log="",
    )


def then(job: Job, outcomes: Sequence[Outcome], place: int, state: State) -> str:
    """What followed the execution at `place`; empty for one that runs or finished the job."""
    outcome = outcomes[place]
    if outcome.end is None or (outcome.failure is None and state is State.DONE):
        return ""
    last = place == len(outcomes) - 1
    following = next((each for each in outcomes[place + 1 :] if each.began), None)
    words = AFTER_LAST.get(state, "tried again") if last else "tried again"
    if following is not None:
        step = following.start.checkpoint_step
        words = f"went on from step {step:,}" if step >= 0 else "tried again from the start"
    before, memory = memory_for(job, outcomes[:place]), memory_for(job, outcomes[: place + 1])
    if memory == before or (last and state is State.FAILED):
        return words
    return f"{words}, with {memory:g} GiB a node"


def history_lines(job: Job, history: History) -> list[str]:
    """The job's history for a reader; empty if nothing has happened yet."""
    if not history.executions:
        return []
    lines = [f"  {job.phase} {job.key}, {history.state}"]
    for row in history.executions:
        took = f"for {span(row.seconds / 3600)}" if row.seconds is not None else "so far"
        ended = ": ".join(part for part in (row.ended if row.ended != NOTHING else "", row.message) if part)
        follows = f"; {row.then}" if row.then else ""
        where = " ".join(part for part in (f"on {row.node}" if row.node else "", row.attempt or row.id) if part)
        lines.append(f"    {moment(row.started_at)}  {where}  {took}  {ended}{follows}")
    if history.resumed_at is not None:
        lines.append(f"    {moment(history.resumed_at)}  a person gave it a new budget")
    if history.memory_raised:
        lines.append(f"    memory raised from {job.resources.memory_gib:g} to {history.memory_gib:g} GiB a node")
    return lines


def history_json(history: History) -> dict[str, Any]:
    """As JSON types: fields of a job in `sweep explain --json` (docs/json.md)."""
    return {
        "status": history.state.value,
        "history": [asdict(row) for row in history.executions],
        "memory_gib": history.memory_gib,
        "memory_raised": history.memory_raised,
        "resumed_at": history.resumed_at,
    }


def moment(seconds: float) -> str:
    """`2026-09-21 13:46:40Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
