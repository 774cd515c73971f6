"""The attempts of one run: what each left on disk, joined with what Slurm accounted of it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.reconcile.accounting import CANCELLED_IN_QUEUE, LOST, AccountingRecord, deduplicate_records
from jobs.reconcile.failures import AttemptEvidence, Failure, classify_failure
from jobs.store.order import parse_order, sort_by_order
from jobs.store.paths import AttemptPaths, RunPaths, SweepPaths
from jobs.store.reading import open_to_read
from jobs.store.records import (
    AttemptExit,
    AttemptStart,
    FailureClass,
    find_newest_checkpoint,
    measure_clock_lead,
    read_record,
)
from jobs.store.results import list_names, read_finished_at

# Which row of Slurm's accounting belongs to which attempt on disk. Pure.

SLACK_SECONDS = 60.0
"""The clocks of a node and of the controller may differ by so much, where the cluster told the attempt no time."""
WHOLE_SECOND = 1.0
"""sacct cuts its times to whole seconds."""


@dataclass(frozen=True, slots=True)
class MatchedRecords:
    """Rows by the attempts' names, and the rows of executions that left no attempt folder, oldest first."""

    by_attempt: dict[str, AccountingRecord]
    rest: tuple[AccountingRecord, ...]


def match_records(starts: Sequence[AttemptStart], endings: Sequence[AccountingRecord]) -> MatchedRecords:
    """Gives each row to one attempt at most.

    Job id and batch name must agree, and the attempt must have begun while the row lasted: by the start that the
    cluster told the attempt, which is a time of the cluster's own clock, else by clocks that may differ. Of several
    rows with one id (requeues), the one that lasted at the time is taken, then the one at the attempt's restart count,
    then the one that began nearest. Rows may be missing: they come late, and slurmdbd makes one row of two requeues in
    one second.
    """
    if not endings:
        return MatchedRecords({}, ())
    begun = {(start.job_id, start.batch) for start in starts}
    rows = [
        row
        for row in deduplicate_records(endings)
        if row.state != CANCELLED_IN_QUEUE or row.ended_at or (row.id, row.batch) not in begun
    ]
    runs: dict[tuple[str, str], list[AccountingRecord]] = defaultdict(list)
    lost: dict[tuple[str, str], AccountingRecord] = {}
    for row in rows:
        if row.ran:
            runs[row.id, row.batch].append(row)
        elif row.state == LOST:
            lost[row.id, row.batch] = row
    found = _best_pairs(starts, runs)
    for start in sorted(starts, key=lambda start: (-start.restart, -start.started_at)):  # lost: the newest of its id
        if (start.job_id, start.batch) in lost:
            found.setdefault(start.attempt, lost.pop((start.job_id, start.batch)))
    taken = {id(row) for row in found.values()}
    return MatchedRecords(found, tuple(row for row in rows if id(row) not in taken))


def _best_pairs(
    starts: Sequence[AttemptStart], runs: Mapping[tuple[str, str], Sequence[AccountingRecord]]
) -> dict[str, AccountingRecord]:
    """`runs`: rows by id and batch, in the order of their submission."""
    pairs = [
        (apart, abs(place - start.restart), abs(row.began_at - _get_moment(start)), start.attempt, place, row)
        for start in starts
        for place, row in enumerate(runs.get((start.job_id, start.batch), ()))
        if (apart := _distance_seconds(row, _get_moment(start))) <= SLACK_SECONDS
    ]
    found: dict[str, AccountingRecord] = {}
    taken: set[int] = set()
    for _, _, _, attempt, _, row in sorted(pairs, key=lambda pair: pair[:-1]):
        if attempt not in found and id(row) not in taken:
            found[attempt] = row
            taken.add(id(row))
    return found


def _get_moment(start: AttemptStart) -> float:
    """When it began, by the cluster's clock if that is known."""
    return start.cluster_started_at or start.started_at


def _distance_seconds(row: AccountingRecord, moment: float) -> float:
    """Seconds between the moment and the time that the row lasted; 0 within it, and within a second of it."""
    early = row.began_at - moment
    late = moment - row.ended_at if row.ended_at > 0 else 0.0
    return max(early, late, WHOLE_SECOND) - WHOLE_SECOND


# The attempts themselves.

LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt, or one execution that ended before its attempt began."""

    paths: AttemptPaths
    """The folder does not exist if the attempt never began."""
    start: AttemptStart
    """Made from the accounting record if the attempt never began."""
    end: AttemptExit | None
    """None while it lives. Reconstructed from the other evidence if exit.json is missing."""
    recorded: bool = True
    """exit.json exists."""
    advanced: bool = False
    """It left a newer checkpoint than it found."""
    began: bool = True
    """start.json exists. False: only `accounting_record` reports it."""
    accounting_record: AccountingRecord | None = None

    @property
    def failure(self) -> FailureClass | None:
        return self.end.failure if self.end else None

    @property
    def node(self) -> str:
        """Slurm's name of the (first) node, or the host's name without Slurm."""
        return self.start.node or self.start.host


def read_attempts(run: RunPaths, *, live: bool, endings: Sequence[AccountingRecord] = ()) -> list[AttemptRecord]:
    """All attempts that began, and executions that failed before, oldest first.

    `endings`: the job's accounting records. `live`: the newest attempt may still run, so that it has no end yet.
    """
    began = read_starts(run)
    matched = match_records([start for _, start in began], endings)
    found = [_build_attempt_record(run, began, number, matched, live=live) for number in range(len(began))]
    unstarted = [
        _build_unstarted_record(run, row, failure)
        for row in matched.rest
        if (failure := classify_failure(None, row)) is not None
    ]
    return _insert_unstarted(found, unstarted)


# Why: docs/decisions.md, D162
def _insert_unstarted(began: Sequence[AttemptRecord], unstarted: Sequence[AttemptRecord]) -> list[AttemptRecord]:
    """Executions that left no attempt, each behind the last attempt that began before it."""
    found = list(began)
    for each in sorted(unstarted, key=lambda record: (record.start.started_at, record.start.attempt)):
        behind = (place for place, other in enumerate(found, 1) if _began_before(other, each))
        found.insert(max(behind, default=0), each)
    return found


def _began_before(one: AttemptRecord, other: AttemptRecord) -> bool:
    """Of an execution that left no attempt (`other`): whether the first began before it. By the cluster's times, if it
    has both; else by its ids, which grow."""
    row, wanted = one.accounting_record, other.accounting_record
    if row is None or wanted is None or LOST in {row.state, wanted.state}:
        ids = parse_job_id(one.start.job_id), parse_job_id(other.start.job_id)
        if all(ids) and ids[0][0] != ids[1][0]:
            return ids[0] < ids[1]
    moment = row.began_at if row is not None else _get_moment(one.start)
    return (moment, one.start.attempt) < (other.start.started_at, other.start.attempt)


def parse_job_id(job: str) -> tuple[int, ...]:
    """123_4 as (123, 4); empty for what is no id of Slurm's."""
    parts = job.split("_")
    return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else ()


def read_starts(run: RunPaths) -> list[tuple[AttemptPaths, AttemptStart]]:
    """The attempts that began, in the order in which they did: by the numbers that they gave themselves."""
    folder = run.attempts
    all_paths = [AttemptPaths(folder / name) for name in list_names(folder)]
    found = [(paths, AttemptStart.read(paths.start)) for paths in all_paths]
    # a copy of an attempt's folder under another name (local-0001.bak) is no attempt
    began = [(paths, start) for paths, start in found if start is not None and start.attempt == paths.root.name]
    named = sorted(began, key=lambda pair: pair[1].attempt)
    return sort_by_order(named, lambda pair: (parse_order(pair[1].order), pair[1].started_at))


def _build_attempt_record(
    run: RunPaths,
    began: Sequence[tuple[AttemptPaths, AttemptStart]],
    number: int,
    matched: MatchedRecords,
    *,
    live: bool,
) -> AttemptRecord:
    paths, start = began[number]
    following = began[number + 1][1] if number + 1 < len(began) else None
    row = matched.by_attempt.get(start.attempt)
    recorded = AttemptExit.read(paths.exit)
    end = recorded
    if end is not None:
        failure = classify_failure(end, row)
        end = replace(end, **failure.build_fields()) if failure is not None else end
    elif following is not None or not live:
        end = _reconstruct_exit(run, paths, start, following, row)
    return AttemptRecord(
        paths=paths,
        start=start,
        end=end,
        recorded=recorded is not None,
        advanced=end is not None and end.checkpoint_step > start.checkpoint_step,
        accounting_record=row,
    )


def _reconstruct_exit(
    run: RunPaths,
    paths: AttemptPaths,
    start: AttemptStart,
    following: AttemptStart | None,
    row: AccountingRecord | None,
) -> AttemptExit:
    """The exit record that an attempt would have written. Its supervisor was killed, or its machine went down."""
    evidence = AttemptEvidence(
        error=read_record(paths.error) or {}, log_tail=read_tail(paths.log), asked_gpus=start.gpus > 0
    )
    failure = classify_failure(evidence, row)
    newest = find_newest_checkpoint(run)
    # With an attempt after it, the newest checkpoint may be that one's; its start says what this one had left.
    kept = following is None and newest.step > start.checkpoint_step
    ahead = measure_clock_lead(start, paths.start)
    saved_at = newest.saved_at + ahead if kept else 0.0
    written = [path.stat().st_mtime + ahead for path in (paths.log, paths.error) if path.exists()]
    return AttemptExit(
        attempt=start.attempt,
        key=start.key,
        ended_at=max(start.started_at, *([row.ended_at] if row and row.ended_at else [saved_at, *written])),
        returncode=-9,
        checkpoint_step=following.checkpoint_step if following else newest.step,
        checkpoint_at=saved_at,
        **(failure.build_fields() if failure else {"failure": None}),
    )


def _build_unstarted_record(run: RunPaths, row: AccountingRecord, failure: Failure) -> AttemptRecord:
    began = row.began_at if row.ran else row.ended_at or row.submitted_at
    start = AttemptStart(
        attempt=row.id,
        key=row.key,
        stage=run.root.parent.name,
        backend="slurm",
        host=row.nodes,
        pid=0,
        pid_started=0.0,
        boot_id="",
        started_at=began,
        cpus=row.cpus,
        gpus=row.gpus,
        job_id=row.id,
        batch=row.batch,
        node=row.nodes,
    )
    end = AttemptExit(
        attempt=row.id,
        key=row.key,
        ended_at=max(began, row.ended_at),
        returncode=row.exit_code or -row.signal,
        **failure.build_fields(),
    )
    paths = AttemptPaths(run.attempts / row.id)
    return AttemptRecord(paths=paths, start=start, end=end, recorded=False, began=False, accounting_record=row)


def find_log_path(attempt: AttemptRecord, sweep: SweepPaths) -> Path:
    """The attempt's own log, or Slurm's if the attempt never began."""
    return attempt.paths.log if attempt.began else sweep.locate_slurm_log(attempt.start.job_id)


def read_tail(path: Path, limit: int = LOG_TAIL_BYTES) -> str:
    """The last `limit` bytes of a text file; empty if it is absent."""
    try:
        with open_to_read(path) as file:
            file.seek(max(0, file.seek(0, 2) - limit))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def read_finished_attempts(
    run: RunPaths, result: Mapping[str, Any], endings: Sequence[AccountingRecord] = ()
) -> Sequence[AttemptRecord]:
    """The attempts of a job that has a result.

    The last one finished the job even if its exit record is missing (its supervisor was killed); then the result says
    when.
    """
    attempts = read_attempts(run, live=False, endings=endings)
    finished_at = read_finished_at(result)
    place = max((place for place, attempt in enumerate(attempts) if attempt.began), default=None)
    if place is None or not finished_at:
        return attempts
    last = attempts[place]
    if last.recorded or last.end is None:
        return attempts
    end = replace(last.end, failure=None, message="", returncode=0, ended_at=finished_at)
    attempts[place] = replace(last, end=end)
    return attempts
