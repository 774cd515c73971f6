"""How the attempts of one run went, read back from what they left on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.checkpoints import newest_checkpoint
from jobs.failures import Evidence, classify
from jobs.records import AttemptExit, AttemptStart, FailureClass, read_record
from jobs.store import AttemptPaths, RunPaths

LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One attempt that began."""

    paths: AttemptPaths
    start: AttemptStart
    end: AttemptExit | None
    """None: it lives. Where exit.json is lost, this is reconstructed from error.json, the log and the checkpoints."""
    recorded: bool = True
    """exit.json is there."""
    advanced: bool = False
    """Left a newer checkpoint than it found."""

    @property
    def failure(self) -> FailureClass | None:
        return self.end.failure if self.end else None


def read_outcomes(run: RunPaths, *, live: bool) -> list[Outcome]:
    """All attempts that began, oldest first. Unless `live`, one without exit.json is judged from its log."""
    starts = _starts(run)
    outcomes: list[Outcome] = []
    for number, (paths, start) in enumerate(starts):
        last = number == len(starts) - 1
        recorded = AttemptExit.read(paths.exit)
        end = recorded
        if end is None and not (last and live):
            end = _reconstructed(run, paths, start, None if last else starts[number + 1][1])
        advanced = end is not None and end.checkpoint_step > start.checkpoint_step
        outcomes.append(Outcome(paths=paths, start=start, end=end, recorded=recorded is not None, advanced=advanced))
    return outcomes


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
    run: RunPaths, paths: AttemptPaths, start: AttemptStart, following: AttemptStart | None
) -> AttemptExit:
    evidence = Evidence(returncode=None, error=read_record(paths.error) or {}, log_tail=read_tail(paths.log))
    verdict = classify(evidence)
    newest = newest_checkpoint(run)
    step = following.checkpoint_step if following else newest.step
    kept = not following and newest.step > start.checkpoint_step
    return AttemptExit(
        attempt=start.attempt,
        key=start.key,
        ended_at=_last_sign_of_life(paths, start, newest.saved_at if kept else 0.0),
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
