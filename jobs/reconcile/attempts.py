"""How the attempts of one run went: what they left on disk, and the cluster's word where it has one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.reconcile.accounting import LOST, AccountingRecord, deduplicate_records
from jobs.reconcile.failures import (
    FailureEvidence,
    classify_failure,
    classify_slurm_failure,
    classify_without_attempt,
    find_supervisor_returncode,
    merge_failures,
)
from jobs.store.paths import AttemptPaths, RunPaths, SweepPaths
from jobs.store.records import AttemptExit, AttemptStart, FailureClass, find_newest_checkpoint, read_record

# Which row of the cluster's accounting belongs to which attempt on disk. Pure.

SLACK_SECONDS = 60.0
"""Clocks of a node and of the controller may differ by so much."""
WHOLE_SECOND = 1.0
"""sacct's times are cut to whole seconds."""


@dataclass(frozen=True, slots=True)
class MatchedRecords:
    """`of`: attempt's name to its row. `rest`: rows of executions that left no attempt folder, oldest first."""

    by_attempt: dict[str, AccountingRecord]
    rest: tuple[AccountingRecord, ...]


def match_records(starts: Sequence[AttemptStart], endings: Sequence[AccountingRecord]) -> MatchedRecords:
    """Each row goes to one attempt at most.

    Job id and batch name must agree, and the attempt must have begun while the row lasted, by clocks that may differ.
    Of several rows with one id (requeues) it is the one that lasted at the time, then the one at the attempt's restart
    count, then the one that began nearest. Rows may be missing: they come late, and two requeues in one second are one
    row to slurmdbd.
    """
    if not endings:
        return MatchedRecords({}, ())
    rows = deduplicate_records(endings)
    runs: dict[tuple[str, str], list[AccountingRecord]] = defaultdict(list)
    lost: dict[tuple[str, str], AccountingRecord] = {}
    for row in rows:
        if row.ran:
            runs[row.id, row.batch].append(row)
        elif row.state == LOST:
            lost[row.id, row.batch] = row
    found = _best_pairs(starts, runs)
    for start in sorted(starts, key=lambda start: -start.started_at):  # what is lost was the newest of its id
        if (start.job_id, start.batch) in lost:
            found.setdefault(start.attempt, lost.pop((start.job_id, start.batch)))
    taken = {id(row) for row in found.values()}
    return MatchedRecords(found, tuple(row for row in rows if id(row) not in taken))


def _best_pairs(
    starts: Sequence[AttemptStart], runs: Mapping[tuple[str, str], Sequence[AccountingRecord]]
) -> dict[str, AccountingRecord]:
    """`runs`: rows by id and batch, in the order of their submission."""
    pairs = [
        (apart, abs(place - start.restart), abs(row.began_at - start.started_at), start.attempt, place, row)
        for start in starts
        for place, row in enumerate(runs.get((start.job_id, start.batch), ()))
        if (apart := _distance_seconds(row, start.started_at)) <= SLACK_SECONDS
    ]
    found: dict[str, AccountingRecord] = {}
    taken: set[int] = set()
    for _, _, _, attempt, _, row in sorted(pairs, key=lambda pair: pair[:-1]):
        if attempt not in found and id(row) not in taken:
            found[attempt] = row
            taken.add(id(row))
    return found


def _distance_seconds(row: AccountingRecord, moment: float) -> float:
    """Seconds from the moment to the time that the row lasted; 0 within it, and within a second of it."""
    early = row.began_at - moment
    late = moment - row.ended_at if row.ended_at > 0 else 0.0
    return max(early, late, WHOLE_SECOND) - WHOLE_SECOND


LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt, or one execution that ended before its attempt began."""

    paths: AttemptPaths
    """A folder that is not there where the attempt never began."""
    start: AttemptStart
    """Made from `ending` where the attempt never began."""
    end: AttemptExit | None
    """None: it lives. Made up from error.json, the cluster's word, log and checkpoints where exit.json is lost."""
    recorded: bool = True
    """exit.json is there."""
    advanced: bool = False
    """Left a newer checkpoint than it found."""
    began: bool = True
    """start.json is there. False: known by `ending` alone."""
    accounting_record: AccountingRecord | None = None
    """The cluster's own account of it, where there is one."""

    @property
    def failure(self) -> FailureClass | None:
        return self.end.failure if self.end else None

    @property
    def node(self) -> str:
        """The cluster's name of the (first) node, else the host's."""
        return self.start.node or self.start.host


def read_attempts(run: RunPaths, *, live: bool, endings: Sequence[AccountingRecord] = ()) -> list[AttemptRecord]:
    """All attempts that began, and executions that failed before, oldest first.

    Unless `live`, an attempt without exit.json is judged by `endings` (of this job) and from its log. An execution that
    is known by its ending alone counts if it failed or a person cancelled it; one that found nothing to do does not.
    """
    starts = _starts(run)
    matched = match_records([start for _, start in starts], endings)
    outcomes = [_build_attempt_record(run, starts, number, matched, live=live) for number in range(len(starts))]
    without = [found for row in matched.rest if (found := _without_attempt(run, row)) is not None]
    if not without:
        return outcomes
    return sorted([*outcomes, *without], key=lambda outcome: (outcome.start.started_at, outcome.start.attempt))


def _build_attempt_record(
    run: RunPaths,
    starts: Sequence[tuple[AttemptPaths, AttemptStart]],
    number: int,
    matched: MatchedRecords,
    *,
    live: bool,
) -> AttemptRecord:
    paths, start = starts[number]
    last = number == len(starts) - 1
    ending = matched.by_attempt.get(start.attempt)
    recorded = AttemptExit.read(paths.exit)
    end = recorded
    if end is None and not (last and live):
        end = _reconstructed(run, paths, start, None if last else starts[number + 1][1], ending)
    elif end is not None and ending is not None:
        end = merge_failures(end, ending)
    advanced = end is not None and end.checkpoint_step > start.checkpoint_step
    return AttemptRecord(
        paths=paths, start=start, end=end, recorded=recorded is not None, advanced=advanced, accounting_record=ending
    )


def _without_attempt(run: RunPaths, ending: AccountingRecord) -> AttemptRecord | None:
    verdict = classify_without_attempt(ending)
    if verdict is None:
        return None
    began = ending.began_at if ending.ran else ending.ended_at or ending.submitted_at
    start = AttemptStart(
        attempt=ending.id,
        key=ending.key,
        stage=run.root.parent.name,
        backend="slurm",
        host=ending.nodes,
        pid=0,
        pid_started=0.0,
        boot_id="",
        started_at=began,
        cpus=ending.cpus,
        gpus=ending.gpus,
        job_id=ending.id,
        batch=ending.batch,
        node=ending.nodes,
    )
    end = AttemptExit(
        attempt=ending.id,
        key=ending.key,
        ended_at=max(began, ending.ended_at),
        returncode=ending.exit_code or -ending.signal,
        failure=verdict.failure,
        message=verdict.message,
    )
    paths = AttemptPaths(run.attempts / ending.id)
    return AttemptRecord(paths=paths, start=start, end=end, recorded=False, began=False, accounting_record=ending)


def find_log_path(outcome: AttemptRecord, sweep: SweepPaths) -> Path:
    """The attempt's own log; what Slurm said where the attempt did not come so far."""
    return outcome.paths.log if outcome.began else sweep.locate_slurm_log(outcome.start.job_id)


def read_tail(path: Path, limit: int = LOG_TAIL_BYTES) -> str:
    """The last `limit` bytes of a text file; empty if it is absent."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - limit))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _starts(run: RunPaths) -> Sequence[tuple[AttemptPaths, AttemptStart]]:
    try:
        names = [entry.name for entry in run.attempts.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [
        (AttemptPaths(run.attempts / name), AttemptStart.read(run.attempts / name / "start.json")) for name in names
    ]
    began = [(paths, start) for paths, start in found if start is not None]
    return sorted(began, key=lambda pair: (pair[1].started_at, pair[1].attempt))


def _reconstructed(
    run: RunPaths,
    paths: AttemptPaths,
    start: AttemptStart,
    following: AttemptStart | None,
    ending: AccountingRecord | None,
) -> AttemptExit:
    evidence = FailureEvidence(
        returncode=find_supervisor_returncode(ending) if ending else None,
        error=read_record(paths.error) or {},
        log_tail=read_tail(paths.log),
        cluster=classify_slurm_failure(ending) if ending else None,
    )
    verdict = classify_failure(evidence)
    newest = find_newest_checkpoint(run)
    step = following.checkpoint_step if following else newest.step
    kept = not following and newest.step > start.checkpoint_step
    seen = _last_sign_of_life(paths, start, newest.saved_at if kept else 0.0)
    return AttemptExit(
        attempt=start.attempt,
        key=start.key,
        ended_at=max(start.started_at, ending.ended_at) if ending and ending.ended_at else seen,
        returncode=-9,
        failure=verdict.failure,
        message=verdict.message,
        traceback_digest=verdict.traceback_digest,
        damaged_key=verdict.damaged_key,
        checkpoint_step=step,
        checkpoint_at=newest.saved_at if kept else 0.0,
    )


def _last_sign_of_life(paths: AttemptPaths, start: AttemptStart, saved_at: float) -> float:
    """Unix seconds of the last write that the attempt is known to have made."""
    written = [path.stat().st_mtime for path in (paths.log, paths.error) if path.exists()]
    return max(start.started_at, saved_at, *written)


def read_finished_attempts(
    run: RunPaths, result: Mapping[str, Any], endings: Sequence[AccountingRecord] = ()
) -> Sequence[AttemptRecord]:
    """The attempts of a job that has a result.

    The last one finished it even where its exit record is lost (its supervisor was killed); the result says when.
    """
    outcomes = read_attempts(run, live=False, endings=endings)
    finished_at = result.get("finished_at")
    place = max((place for place, outcome in enumerate(outcomes) if outcome.began), default=None)
    if place is None or isinstance(finished_at, bool) or not isinstance(finished_at, int | float):
        return outcomes
    last = outcomes[place]
    if last.recorded or last.end is None:
        return outcomes
    end = replace(last.end, failure=None, message="", returncode=0, ended_at=finished_at)
    outcomes[place] = replace(last, end=end)
    return outcomes
